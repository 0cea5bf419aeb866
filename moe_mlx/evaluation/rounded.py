"""Rounded: every expert's codes at fewer levels, all experts in memory. A baseline of `eval` only.

With four or eight levels it is MLX's own affine quantisation to two or three bits in the same groups; three levels are
ternary: minus a, nothing and a, with the threshold, of a few, that leaves each group the least squared error.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from moe_mlx.errors import UsageError
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.loading.runtime import Runtime

TERNARY = 3
#: Levels to the bits of MLX's quantisation that has them.
BITS = {4: 2, 8: 3}
#: Below which share of a group's mean size a weight is nothing.
THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
_BITS = 4
_PER_WORD = 32 // _BITS


class Codes(NamedTuple):
    """A weight `[..., in]` as codes `[..., groups, size]`, with a scale and a bias `[..., groups]` a group."""

    codes: mx.array
    scales: mx.array
    biases: mx.array


def rounded(weights: mx.array, group: int, levels: int) -> Codes:
    """Returns weights at so many levels.

    Args:
        weights: `[..., in]`, floats.
        group: Weights that share a scale.
        levels: One of `setting.LEVELS`.
    """
    grouped = weights.astype(mx.float32).reshape(*weights.shape[:-1], -1, group)
    if levels == TERNARY:
        return _ternary(grouped)
    packed, scales, biases = mx.quantize(weights.astype(mx.float32), group_size=group, bits=BITS[levels])
    there = mx.dequantize(packed, scales, biases, group_size=group, bits=BITS[levels]).reshape(grouped.shape)
    codes = mx.round((there - biases[..., None]) / scales[..., None])
    return Codes(codes.astype(mx.uint32), scales, biases)


def _ternary(weights: mx.array) -> Codes:
    size, best = mx.abs(weights), None
    for threshold in THRESHOLDS:
        kept = size > threshold * size.mean(axis=-1, keepdims=True)
        scale = (size * kept).sum(axis=-1) / mx.maximum(kept.sum(axis=-1), 1)
        signs = mx.sign(weights) * kept
        error = mx.square(weights - scale[..., None] * signs).sum(axis=-1)
        if best is None:
            best = signs, scale, error
        else:
            better = error < best[2]
            found = (mx.where(better[..., None], signs, best[0]), mx.where(better, scale, best[1]))
            best = (*found, mx.minimum(error, best[2]))
    assert best is not None
    return Codes((best[0] + 1).astype(mx.uint32), best[1], -best[1])


class Rounded:
    """While it is entered, every expert of a model that is whole in memory is at fewer levels.

    Args:
        runtime: Its cap has a slot for every expert.
        levels: One of `setting.LEVELS`.

    Raises:
        UsageError: Experts that are not of four affine bits.
    """

    def __init__(self, runtime: Runtime, levels: int) -> None:
        self._runtime, self._levels = runtime, levels
        for cache in runtime.layers:
            for name in _projections(cache):
                module = getattr(cache.inner, name)
                if (getattr(module, "bits", 0), getattr(module, "mode", "affine")) != (_BITS, "affine"):
                    raise UsageError(f"{cache.spec.path}.{name} is not of {_BITS} affine bits: nothing is rounded")

    def __enter__(self) -> None:
        self._runtime.drain()
        for cache in self._runtime.layers:
            self._round(cache)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runtime.drain()
        for cache in self._runtime.layers:
            cache.table.reset()
            cache.fill_whole()

    def _round(self, cache: LayerCache) -> None:
        places = {spec.name: place for place, spec in enumerate(cache.spec.tensors)}
        for name in _projections(cache):
            module = getattr(cache.inner, name)
            found = (places[f"{name}.{leaf}"] for leaf in ("weight", "scales", "biases"))
            at = dict(zip(("weight", "scales", "biases"), found, strict=True))
            stored = {leaf: cache.bank.arrays[place] for leaf, place in at.items()}
            weights = mx.dequantize(*stored.values(), group_size=module.group_size, bits=_BITS)
            made = rounded(weights, module.group_size, self._levels)
            words = made.codes.reshape(*weights.shape[:-1], -1, _PER_WORD) << mx.arange(0, 32, _BITS, dtype=mx.uint32)
            new = {"weight": words.sum(axis=-1), "scales": made.scales, "biases": made.biases}
            for leaf, place in at.items():
                rows = _bytes_of(new[leaf].astype(stored[leaf].dtype))
                for slot in range(cache.table.slots):
                    cache.bank.buffers(slot)[place][:] = rows[slot].data


def _projections(cache: LayerCache) -> list[str]:
    return [spec.name.removesuffix(".weight") for spec in cache.spec.tensors if spec.name.endswith(".weight")]


def _bytes_of(array: mx.array) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Returns `[slots, bytes]`."""
    return np.array(mx.contiguous(array).reshape(array.shape[0], -1).view(mx.uint8))
