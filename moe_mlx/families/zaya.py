"""Zaya 1 VL: its experts weigh and add their own outputs, one more stands for no expert, and pictures have adapters.

Here the switch computes experts alone, and the block does the rest. A row's last column tells the adapters whether it
is of a picture: a prompt's rows visit their experts in parts, and each takes along what belongs to it.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn


class ZayaExperts:
    """Stands in front of `ZayaSwitchMLP`."""

    def __call__(self: Any, x: mx.array, indices: mx.array) -> mx.array:
        """Computes `[..., k, D]` of `[..., D]`, or `[..., D + 1]` where there are pictures.

        What stands for no expert gives whatever some expert gives.
        """
        shown = None
        if x.shape[-1] > self.hidden_size:
            x, shown = x[..., : self.hidden_size], x[..., self.hidden_size :, None]
        indices = mx.minimum(indices, self.linear_fc1.weight.shape[0] - 1)
        rows = x[..., None, None, :]
        h = self.linear_fc1(rows, indices, sorted_indices=False).squeeze(-2)
        if shown is not None:
            h = h + _adapted(self.lora_fc1, rows, indices) * shown.astype(h.dtype)
        if self.config.gated_linear_unit:
            gate, value = mx.split(h, 2, axis=-1)
            h = nn.silu(gate) * value
        else:
            h = nn.gelu(h) if self.config.activation_func == "gelu" else nn.silu(h)
        rows = h[..., None, :]
        y: mx.array = self.linear_fc2(rows, indices, sorted_indices=False).squeeze(-2)
        if shown is not None:
            y = y + _adapted(self.lora_fc2, rows, indices) * shown.astype(y.dtype)
        return y


def _adapted(layers: Any, rows: mx.array, indices: mx.array) -> mx.array:
    low = layers[0](rows, indices, sorted_indices=False).squeeze(-2)
    added: mx.array = layers[1](low[..., None, :], indices, sorted_indices=False).squeeze(-2)
    return added


class ZayaBlock:
    """Stands in front of `ZayaBlock`, in every call."""

    def __call__(
        self: Any, x: mx.array, earlier: mx.array | None = None, image_mask: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Computes `[B, L, D]`, and the router's state for the next layer."""
        weights, chosen, state = self.router(x, earlier)
        config = self.router.config
        rows = x
        if image_mask is not None and config.vision_lora:
            rows = mx.concatenate([x, image_mask[..., None].astype(x.dtype)], axis=-1)
        y = self.experts(rows, chosen)
        if config.zaya_use_mod:
            y = mx.where((chosen == config.num_experts)[..., None], x[..., None, :], y)
        return (y * weights[..., None]).sum(axis=-2), state
