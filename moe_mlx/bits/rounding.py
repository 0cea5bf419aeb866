"""One expert's tensors at fewer bits, by MLX's own rounding, and the layer and config that they make.

What mlx-lm does with a whole model (`mlx_lm.convert -q`, after `-d` where it is quantised already), expert by expert.
Where experts of a layer differ, codes of every width are held in memory as codes of `HELD_BITS`, which say the same
weights, so that the layer is one ordinary quantised layer to mlx-lm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from moe_mlx.errors import UnsupportedModelError
from moe_mlx.expert_cache.slots import DTYPES
from moe_mlx.store import ExpertLayer, ExpertSource, TensorSpec
from moe_mlx.store.family import PARTS
from moe_mlx.store.nesting import quantization_of
from moe_mlx.store.parts import HELD_BITS, WIDTHS
from moe_mlx.store.widening import widen

#: Values that share a scale where the model has none yet: the first that divides all rows.
GROUPS = (64, 32)
_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Projection:
    """One weight of an expert as its source has it.

    Attributes:
        name: Such as `gate_proj`.
        bits: Of a code; None of a weight that is not quantised.
        group: Values that share a scale, there or from now on.
    """

    name: str
    bits: int | None
    group: int


class Rounding:
    """Makes a layer's experts at fewer bits from those of a source. MLX runs on the CPU: the same bits every time.

    Args:
        source: What runs here: a store or a checkpoint in place, of float weights or affine ones of 4 bits or more.
        index: MoE ordinal of the layer.

    Attributes:
        given: The layer as the source has it.
        projections: Its weights.
        lossless: Whether an expert at `HELD_BITS` is the source's own, bit for bit.

    Raises:
        UnsupportedModelError: a weight that is quantised otherwise, or whose rows no group divides; it is named.
    """

    def __init__(self, source: ExpertSource, index: int) -> None:
        self._source, self.given = source, source.layers[index]
        self._specs = specs = {spec.name: spec for spec in self.given.tensors}
        names = dict.fromkeys(name.rpartition(".")[0] for name in specs if name.endswith(".weight"))
        self.projections = tuple(self._projection(name, specs) for name in names)
        self.lossless = all(projection.bits == HELD_BITS for projection in self.projections)

    def _projection(self, name: str, specs: Mapping[str, TensorSpec]) -> Projection:
        weight, scales = specs[f"{name}.weight"], specs.get(f"{name}.scales")
        where = f"{self._source.root}: {self.given.path}.{name}"
        if scales is None:
            group = next((size for size in GROUPS if len(weight.shape) == 2 and weight.shape[1] % size == 0), 0)
            if weight.dtype not in _FLOATS or not group:
                raise UnsupportedModelError(
                    f"{where} is {weight.dtype} {list(weight.shape)}: only float weights whose rows divide by "
                    f"{GROUPS[-1]} are given fewer bits."
                )
            return Projection(name, None, group)
        said = quantization_of(self._source.config, f"{self.given.path}.{name}")
        mode, bits, size = said.get("mode", "affine"), said.get("bits", 0), said.get("group_size", 0)
        known = type(bits) is int and type(size) is int and mode == "affine" and f"{name}.biases" in specs
        if not known or scales.shape[-1] * size * bits != weight.shape[-1] * 32:
            raise UnsupportedModelError(
                f"{where} is quantised as {str(mode)[:40]} to {str(bits)[:40]} bits: only affine weights are given "
                "fewer bits."
            )
        if bits < HELD_BITS:
            raise UnsupportedModelError(f"{where} has {bits} bits already: give a model of {HELD_BITS} bits or more.")
        return Projection(name, int(bits), int(size))

    def layer_at(self, held: int) -> ExpertLayer:
        """Returns the layer as it will be: every weight a packed one of so many bits."""
        found: list[TensorSpec] = []
        weights = {projection.name: projection for projection in self.projections}
        for name, spec in self._specs.items():
            projection, _, leaf = name.rpartition(".")
            if projection not in weights or leaf in PARTS[3:]:
                found.append(spec)
            elif leaf == "weight":
                rows, columns = self.shape(weights[projection])
                dtype = self._specs.get(f"{projection}.scales", spec).dtype
                group = weights[projection].group
                found.append(TensorSpec(name, "U32", (rows, columns * held // 32)))
                found += [TensorSpec(f"{projection}.{leaf}", dtype, (rows, columns // group)) for leaf in PARTS[1:3]]
        return replace(self.given, tensors=tuple(found))

    def shape(self, projection: Projection) -> tuple[int, int]:
        """Returns outputs and inputs of a weight."""
        weight = next(spec for spec in self.given.tensors if spec.name == f"{projection.name}.weight")
        rows, columns = weight.shape
        return (rows, columns) if projection.bits is None else (rows, columns * 32 // projection.bits)

    def read(self, expert: int) -> dict[str, mx.array]:
        """Reads an expert of the source.

        Raises:
            ExpertReadError: it could not be read.
        """
        buffers = [memoryview(bytearray(spec.nbytes)) for spec in self.given.tensors]
        self._source.read_into(self.given.index, expert, buffers)
        return {
            spec.name: mx.array(np.frombuffer(buffer, np.uint8)).view(DTYPES[spec.dtype]).reshape(spec.shape)
            for spec, buffer in zip(self.given.tensors, buffers, strict=True)
        }

    def weight(self, tensors: Mapping[str, mx.array], projection: Projection) -> mx.array:
        """Returns a weight of the source, `[O, I]` floats."""
        weight = tensors[f"{projection.name}.weight"]
        if projection.bits is None:
            return weight
        scales, biases = (tensors[f"{projection.name}.{leaf}"] for leaf in PARTS[1:3])
        return mx.dequantize(weight, scales, biases, projection.group, projection.bits, stream=mx.cpu)

    def rounded(self, weight: mx.array, projection: Projection, bits: int) -> tuple[mx.array, mx.array, mx.array]:
        """Returns codes, scales and biases of a weight at fewer bits, as MLX packs them."""
        codes, scales, biases = mx.quantize(weight, projection.group, bits, stream=mx.cpu)
        return codes, scales, biases

    def at(self, expert: int, bits: int, held: int) -> list[memoryview]:
        """Returns the bytes of an expert at some width, a buffer for each tensor of `layer_at(held)`.

        Args:
            expert: Its number.
            bits: One of `WIDTHS`.
            held: Bits of a code in memory: as many, or `HELD_BITS`.

        Raises:
            ExpertReadError: it could not be read.
        """
        assert bits in WIDTHS and held in (bits, HELD_BITS)
        tensors = self.read(expert)
        if not (bits == HELD_BITS and self.lossless):
            for projection in self.projections:
                name = projection.name
                codes, scales, biases = self.rounded(self.weight(tensors, projection), projection, bits)
                tensors |= {
                    f"{name}.weight": _held(codes, bits, held),
                    f"{name}.scales": scales,
                    f"{name}.biases": biases,
                }
        return [_bytes_of(tensors[spec.name]) for spec in self.layer_at(held).tensors]

    def quantization(self, held: int) -> dict[str, dict[str, Any]]:
        """Returns what a config says of the layer's weights, by path, at so many bits in memory."""
        return {
            f"{self.given.path}.{projection.name}": {
                "group_size": projection.group,
                "bits": held,
                "mode": "affine",
            }
            for projection in self.projections
        }


def config_with(config: Mapping[str, Any], roundings: Sequence[Rounding], held: Sequence[int]) -> dict[str, Any] | None:
    """Returns the config of the model to be; None where the source's own says it already.

    Args:
        config: The source's.
        roundings: Of its layers.
        held: Bits of their weights in memory.
    """
    if all(rounding.lossless and bits == HELD_BITS for rounding, bits in zip(roundings, held, strict=True)):
        return None
    own: dict[str, Any] = {}
    for rounding, bits in zip(roundings, held, strict=True):
        own |= rounding.quantization(bits)
    before = next((config[key] for key in ("quantization", "quantization_config") if config.get(key)), None)
    quantization = {**(before or next(iter(own.values()))), **own}
    return {**config, "quantization": quantization, "quantization_config": quantization}


def _held(codes: mx.array, bits: int, held: int) -> mx.array:
    """Returns codes, `[O, I * bits / 32]`, with `held` bits each."""
    if bits == held:
        return codes
    few = np.array(codes).view(np.uint8)
    whole = np.empty((len(few), few.shape[1] * HELD_BITS // bits), np.uint8)
    widen(bits, few, whole)
    return mx.array(whole.view(np.uint32))


def _bytes_of(array: mx.array) -> memoryview:
    flat = mx.contiguous(array, stream=mx.cpu).reshape(-1).view(mx.uint8)
    mx.eval(flat)
    return memoryview(np.array(flat).tobytes())
