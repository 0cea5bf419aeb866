"""The product with coarse experts: a switch module of mlx-lm's whose projections hold the high bits of its weights.

A code of an affine weight `s * q + b` is `q = 2^L * hi + lo`. With the middle of what `lo` may be in its place the
weight is `2^L * s * hi + b + s * (2^L - 1) / 2`: an affine weight of fewer bits, of the same groups. Its product is
taken with the model's own scales and biases, so that a low slot keeps nothing but bits of the checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import mlx.core as mx
from mlx import nn

from moe_mlx.errors import UnsupportedModelError
from moe_mlx.store.parts import Halves


class CoarseLinear(nn.Module):
    """Stands where a coarse switch has a `QuantizedSwitchLinear`; same call (mlx_lm/models/switch_layers.py).

    `weight` `[L, O, I * high_bits / 32]`, `scales` and `biases` `[L, O, I / group]` and, where the whole one has it,
    `bias` `[L, O]` are a low bank's arrays.
    """

    def __init__(self, whole: Any, halves: Halves) -> None:
        super().__init__()
        self.group_size, self.bits, self.factor = whole.group_size, halves.high_bits, float(1 << halves.low_bits)
        for name in ("weight", "scales", "biases", *(("bias",) if "bias" in whole else ())):
            self[name] = mx.zeros(1)  # until a bank is installed
        self.freeze()

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """Multiplies rows with their experts' coarse weights.

        With f = 2^L, `f * s * hi + b + s * (f - 1) / 2` is `f * (s * hi + s)`, which is one quantised product with the
        scales as biases, and `b - s * (f + 1) / 2`, which meets the sum of each group of `x`, in float32.

        Args:
            x: `[..., 1, I]`, as the whole projection takes it.
            indices: Rows of the bank.
            sorted_indices: Whether they are sorted.
        """
        scales, biases, dtype = self["scales"], self["biases"], x.dtype
        if mx.default_device().type == mx.cpu:  # where MLX adds half precision up as such; this sum would not bear it
            x = x.astype(mx.float32)
        y = mx.gather_qmm(
            x * self.factor,
            self["weight"],
            scales,
            scales,
            rhs_indices=indices,
            transpose=True,
            group_size=self.group_size,
            bits=self.bits,
            sorted_indices=sorted_indices,
        )
        wide = mx.unflatten(x.astype(mx.float32), -1, (-1, self.group_size)).sum(axis=-1)
        rest = biases[indices].astype(mx.float32) - (self.factor + 1) / 2 * scales[indices].astype(mx.float32)
        y = (y.astype(mx.float32) + wide @ rest.swapaxes(-1, -2)).astype(dtype)
        return y + mx.expand_dims(self["bias"][indices], -2) if "bias" in self else y


def coarse_switch(inner: nn.Module, names: Iterable[str], halves: Mapping[str, Halves]) -> nn.Module:
    """Returns a switch like `inner` for coarse experts, its tensors still to come from a low bank.

    Args:
        inner: mlx-lm's module. What it holds beside its projections is shared with it.
        names: Of its projections.
        halves: By the name of each weight that is cut, such as `gate_proj.weight`.

    Raises:
        UnsupportedModelError: its projections are not where the weights' names say.
    """
    coarse = copy.copy(inner)
    for name in names:  # what is not cut has its own arrays too
        coarse[name] = copy.copy(inner[name])
    for name, cut in halves.items():
        projection, _, leaf = name.rpartition(".")
        whole = inner.get(projection)
        if leaf != "weight" or getattr(whole, "mode", None) != "affine" or getattr(whole, "bits", None) != cut.bits:
            raise UnsupportedModelError(
                f"{type(inner).__name__}.{name} is no affine weight of {cut.bits} bits: --light coarse does not know it"
            )
        coarse[projection] = CoarseLinear(whole, cut)
    return coarse
