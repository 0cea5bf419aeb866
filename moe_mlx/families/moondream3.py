"""Moondream 3: its block holds router and projections alike. Here the experts are a switch like any other."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn

#: As `SwitchGLU` has it: from so many rows on, rows are sorted by expert.
_SORTED = 64


class MoondreamExperts(nn.Module):
    """The two projections of one layer's experts, half of the first one a gate.

    Args:
        fc1: `[E, 2 H, D]`.
        fc2: `[E, D, H]`.
    """

    def __init__(self, fc1: nn.Module, fc2: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """Computes `[..., k, D]` of `[..., D]` and expert numbers `[..., k]`, as the block does."""
        from mlx_vlm.models.moondream3.language import _gather_sort, _scatter_unsort

        x, idx, back = mx.expand_dims(x, (-2, -3)), indices, None
        if sort := indices.size >= _SORTED:
            x, idx, back = _gather_sort(x, indices)
        value, gate = mx.split(self.fc1(x, idx, sorted_indices=sort), 2, axis=-1)
        y: mx.array = self.fc2(nn.gelu(value) * (gate + 1.0), idx, sorted_indices=sort)
        if sort:
            y = _scatter_unsort(y, back, indices.shape)
        return y.squeeze(-2)


class MoondreamBlock:
    """Stands in front of `MoEMLP`, in every call."""

    def __call__(self: Any, x: mx.array) -> mx.array:
        """Computes `[B, L, D]`."""
        chosen, weights = self.routing.routed(self, x)
        return (self.experts(x, chosen) * weights[..., None]).sum(axis=-2)
