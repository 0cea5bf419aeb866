"""Routing by a policy that happens to change nothing: what it computes has to be the model's own bits."""

from typing import Any

import mlx.core as mx

from moe_mlx.expert_cache.switch import CappedSwitch
from moe_mlx.routing.policy import descending


class Faithful:
    """A policy that may change a choice and never does."""

    name, top_j, lossless = "faithful", 0, False

    def rank(self, scores: Any, resident: Any, delta: float, k: int) -> Any:
        return descending(scores)[:k]


def recompute_weights(monkeypatch: Any) -> list[None]:
    """Lets `select` return a new array, as routing in the graph does, so that the weights are gathered anew."""
    calls: list[None] = []
    original = CappedSwitch.select

    def select(self: CappedSwitch, *args: Any, **kwargs: Any) -> mx.array:
        calls.append(None)
        chosen = mx.array(original(self, *args, **kwargs))
        assert self.cache.selected is not None
        self.cache.selected = (chosen, self.cache.selected[1])
        return chosen

    monkeypatch.setattr(CappedSwitch, "select", select)
    return calls
