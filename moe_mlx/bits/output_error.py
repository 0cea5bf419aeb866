"""What each width costs each expert: the change of its output on the rows of a text that choose it.

An expert's error at a width is the sum, over those rows, of the squared change of its output times its squared router
weight: what it adds to the residual, which all layers share, so that errors of all layers compare. Each expert counts
as used once more than it was, with its layer's mean error, so that one the text never chose is not taken for free.

The source runs under the smallest expert cache that it can have, one expert at a time is measured: memory stays as it
is in a run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.models.switch_layers import SwitchLinear
from numpy.typing import NDArray

from moe_mlx.bits.rounding import Rounding
from moe_mlx.errors import UnsupportedModelError
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.loading.runtime import Runtime
from moe_mlx.store.parts import WIDTHS

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found on a text.

    Attributes:
        errors: float64 `[E, 3]` for each layer: squared errors at each of `WIDTHS`, the use that is added included.
        uses: int64 `[E]` for each layer: rows that chose each expert.
        outputs: For each layer, what its experts' weighed outputs come to: their squares, summed as the errors are.
        weighed: Whether router weights were known in every layer; else each counts 1 / top_k.
    """

    errors: tuple[Array, ...]
    uses: tuple[NDArray[np.int64], ...]
    outputs: tuple[float, ...]
    weighed: bool

    def relative(self, index: int, bits: Sequence[int]) -> float:
        """Returns the squared error of a layer whose experts have some bits, beside what it puts out."""
        places = [WIDTHS.index(width) for width in bits]
        error = float(self.errors[index][np.arange(len(places)), places].sum())
        return error / self.outputs[index] if self.outputs[index] else 0.0


def measure(
    runtime: Runtime,
    roundings: Sequence[Rounding],
    documents: Sequence[Sequence[int]],
    tick: Callable[[int], None],
) -> Measured:
    """Measures a model on a text.

    Args:
        runtime: The source, loaded; it computes nothing else meanwhile.
        roundings: Of its layers.
        documents: Tokens; each is one prompt.
        tick: Called with the number of tokens done.

    Raises:
        ExpertReadError: an expert could not be read.
        UnsupportedModelError: a family that hands its experts more than rows.
    """
    probes = [_Probe(cache, rounding) for cache, rounding in zip(runtime.layers, roundings, strict=True)]
    done = 0
    try:
        for cache, probe in zip(runtime.layers, probes, strict=True):
            cache.aside, cache.weighed = probe.outputs_of, probe.take_weights
        for document in documents:
            mx.eval(runtime.model(mx.array([document])))
            done += len(document)
            tick(done)
    finally:
        for cache in runtime.layers:
            cache.aside = cache.weighed = None
    return Measured(
        tuple(probe.with_one_more() for probe in probes),
        tuple(probe.uses for probe in probes),
        tuple(probe.output for probe in probes),
        all(probe.weighed for probe in probes),
    )


class _Probe:
    """Computes a layer in its cache's place, and each expert at every width beside it."""

    def __init__(self, cache: LayerCache, rounding: Rounding) -> None:
        self.cache, self.rounding = cache, rounding
        self.errors = np.zeros((cache.spec.experts, len(WIDTHS)))
        self.uses = np.zeros(cache.spec.experts, np.int64)
        self.output, self.weighed = 0.0, True
        self._weights: mx.array | None = None

    def take_weights(self, weights: mx.array) -> None:
        """Takes the router's weights `[..., k]` of the call to come."""
        self._weights = weights

    def outputs_of(self, cache: LayerCache, x: mx.array, indices: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        """Returns the exact outputs `[..., k, D]` of the experts chosen for rows `[..., D]`."""
        if args or kwargs:
            raise UnsupportedModelError(
                f"{cache.spec.path}: this family passes its experts more than rows, so what fewer bits cost them is "
                "not measured: --bits-by uniform takes no measure"
            )
        k = indices.shape[-1]
        rows, chosen = x.reshape(-1, x.shape[-1]), np.array(indices).reshape(-1)
        weights, self._weights = self._weights, None
        if weights is None or weights.size != chosen.size:
            self.weighed, squares = False, np.full(chosen.size, 1.0 / k**2)
        else:
            squares = np.square(np.array(weights.astype(mx.float32), dtype=np.float64).reshape(-1))
        places: list[NDArray[np.intp]] = []
        outputs: list[mx.array] = []
        for expert in np.unique(chosen).tolist():
            place = np.flatnonzero(chosen == expert)
            places.append(place)
            mine = rows[mx.array((place // k).astype(np.uint32))]
            if expert >= cache.spec.experts:  # what is not stored computes elsewhere
                width = (outputs[0] if outputs else mine).shape[-1]
                outputs.append(mx.zeros((place.size, width), x.dtype))
                continue
            outputs.append(self._measured(expert, mine, squares[place]))
        order = np.argsort(np.concatenate(places))
        y = mx.concatenate(outputs, axis=0)[mx.array(order.astype(np.uint32))]
        return y.reshape(*indices.shape, y.shape[-1])

    def _measured(self, expert: int, rows: mx.array, squares: Array) -> mx.array:
        """Returns one expert's outputs `[n, D]`, its errors at every width added up."""
        trial, widths = _trial(self.cache.inner, self.rounding, expert)
        which = mx.broadcast_to(mx.arange(1 + len(widths), dtype=mx.uint32), (rows.shape[0], 1 + len(widths)))
        y = trial(rows, which)
        own = y[:, :1].astype(mx.float32)
        changes = mx.square(y[:, 1:].astype(mx.float32) - own).sum(axis=-1)
        sizes = mx.square(own).sum(axis=-1)
        mx.eval(y, changes, sizes)
        for width, change in zip(widths, np.array(changes, dtype=np.float64).T, strict=True):
            self.errors[expert, WIDTHS.index(width)] += float(change @ squares)
        self.output += float(np.array(sizes, dtype=np.float64).reshape(-1) @ squares)
        self.uses[expert] += squares.size
        return y[:, 0]

    def with_one_more(self) -> Array:
        """Returns the errors as if each expert had been used once more, with the layer's mean error."""
        return self.errors + self.errors.sum(axis=0) / max(1, int(self.uses.sum()))


def _trial(inner: nn.Module, rounding: Rounding, expert: int) -> tuple[nn.Module, list[int]]:
    """Returns a switch of float weights whose experts are one expert as it is and at each width that changes it."""
    tensors = rounding.read(expert)
    widths = [bits for bits in WIDTHS if not (rounding.lossless and bits == WIDTHS[-1])]
    trial = copy.copy(inner)
    for projection in rounding.projections:
        whole = rounding.weight(tensors, projection)
        weights = [whole]
        for bits in widths:
            codes, scales, biases = rounding.rounded(whole, projection, bits)
            weights.append(mx.dequantize(codes, scales, biases, projection.group, bits, stream=mx.cpu))
        bias = tensors.get(f"{projection.name}.bias")
        trial[projection.name] = _linear(
            mx.stack(weights), None if bias is None else mx.broadcast_to(bias, (len(weights), *bias.shape))
        )
    return trial, widths


def _linear(weight: mx.array, bias: mx.array | None) -> nn.Module:
    made = SwitchLinear.__new__(SwitchLinear)
    nn.Module.__init__(made)
    made.weight = weight
    if bias is not None:
        made.bias = bias
    return made
