"""Routing by a policy that happens to change nothing: what it computes has to be the model's own bits."""

from typing import Any

import mlx.core as mx

import moe_mlx
from moe_mlx.expert_cache.switch import CappedSwitch
from moe_mlx.routing.policy import descending
from tests.families.calls import STEPS, Outputs, answer, same


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


def check_routing(monkeypatch: Any, model: Any, theirs: Outputs, hashed: int = 0) -> None:
    """Routes by a policy that changes nothing, with weights gathered anew; then by the model's own, which does.

    Args:
        monkeypatch: The fixture.
        model: Capped, under a lossy policy.
        theirs: What the library itself answers.
        hashed: Layers that take their experts from a table.
    """
    routed = [layer for layer in moe_mlx.runtime_of(model).layers if layer.router is not None]
    policies = [layer.policy for layer in routed]
    for layer in routed:
        layer.policy = Faithful()
    with monkeypatch.context() as patch:
        calls = recompute_weights(patch)
        assert same(theirs, answer(model))
    assert len(calls) == len(STEPS) * (len(routed) - hashed) > 0
    for layer, policy in zip(routed, policies, strict=True):
        layer.policy = policy
    moe_mlx.reset(model)
    assert not same(theirs, answer(model)) and moe_mlx.stats(model).decode.swapped > 0
