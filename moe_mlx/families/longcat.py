"""LongCat-Flash: some of the experts its router chooses among are the identity, and have no weights.

mlx-lm sends those to expert 0 and multiplies the result by 0, so that expert 0 would be read and counted for nothing.
Here the switch gets the router's own numbers: to it, a number beyond its experts is no expert.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx


class LongcatBlock:
    """Stands in front of `LongcatFlashMoE`, in every call."""

    def __call__(self: Any, x: mx.array) -> mx.array:
        """Computes `[B, L, D]`."""
        routing, router = self.routing, self.router
        chosen, weights = routing.choose(router, x) if routing.takes(router, x) else router(x)
        identity = chosen >= self.n_routed_experts
        if self.switch_mlp.cache.full and self.switch_mlp.cache.recorder is None:
            chosen = mx.where(identity, 0, chosen)
        routed = self.switch_mlp(x, chosen) * mx.where(identity, 0.0, weights)[..., None]
        return mx.sum(routed, axis=-2) + x * mx.sum(mx.where(identity, weights, 0.0), axis=-1, keepdims=True)
