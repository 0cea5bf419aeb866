"""Bits that were given to a model's experts, by what, and how a user is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_mlx.store.parts import held_of
from moe_mlx.store.source import ExpertSource


@dataclass(frozen=True, slots=True)
class Given:
    """Bits that were given to experts.

    Attributes:
        asked: Mean over all weights that was asked for.
        spent: What it came to; never more.
        bits: By layer, by expert.
        errors: By layer: the squared error of its output beside what it puts out; None where nobody measured.
        calibration: The text that was measured on, in a few words; "" where none was.
    """

    asked: float
    spent: float
    bits: tuple[tuple[int, ...], ...]
    errors: tuple[float | None, ...]
    calibration: str


def weights_of(source: ExpertSource) -> list[int]:
    """Returns the weights of all experts of each layer of a source whose experts were given bits."""
    return [
        layer.experts * sum(spec.nbytes for spec in layer.tensors if spec.name.endswith(".weight")) * 8 // held_of(bits)
        for layer, bits in zip(source.layers, source.bits, strict=True)
    ]


def _mean(source: ExpertSource, bits: Sequence[float]) -> float:
    """Returns the mean over all weights of what the layers have."""
    weights = weights_of(source)
    return sum(size * few for size, few in zip(weights, bits, strict=True)) / sum(weights)


def mean_bits(source: ExpertSource) -> float | None:
    """Returns the mean bits of the experts' weights in their files, without scales; None where nobody gave any."""
    return _mean(source, [sum(bits) / len(bits) for bits in source.bits]) if source.bits else None


def bits_words(source: ExpertSource) -> str:
    """Returns the same in a few words, and what they have in memory where that is more; "" where nobody gave any."""
    if (bits := mean_bits(source)) is None:
        return ""
    held = _mean(source, [held_of(bits) for bits in source.bits])
    return f"{bits:.4g} bits" + (f" of {held:.4g}" if held > bits else "") + " a weight"
