"""Inkling: its block looks into its switch for a Metal kernel, and its switch may scale each expert by number."""

from __future__ import annotations

from typing import Any

import mlx.core as mx


class InklingBlock:
    """Stands in front of `InklingSparseMoE`, in every call: without the kernel that reads experts past the switch."""

    def __call__(self: Any, x: mx.array) -> mx.array:
        """Computes `[B, L, D]`."""
        rows = x.reshape(-1, x.shape[-1])
        chosen, weights, shared = self._route(rows @ self.gate_weight.astype(x.dtype).T)
        routed = (self.switch_mlp(rows, chosen) * weights[..., None]).sum(axis=-2)
        return (routed + self.shared_experts(rows, shared)).reshape(x.shape).astype(x.dtype)
