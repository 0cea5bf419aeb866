"""Route ahead: a layer's experts chosen from an earlier layer's input, for `eval` only.

Layer l's own router is asked with the router input of layer l - d, as prefetch asks it, and what it names is used:
every read has d layers of computing to arrive in. The true top-J always are among the chosen, and what is chosen is
weighed by the true scores. Speculated experts cost quality elsewhere (arXiv 2603.19289).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx
import numpy as np

from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.routing.policy import Ids, Mask, Scores, descending


class RouteAhead:
    """One layer's.

    Attributes:
        top_j: True top experts that are always chosen.
        foreseen: `[..., E]`, what the router says of the earlier layer's input, for the step to come; None where no
            layer is that far before this one: it chooses by its own input, and waits.
        waited: Misses that were not foreseen; all others count as having arrived in time.
        waits: Steps with such a miss.
        wasted: Absent experts that were foreseen and then displaced by one of the top-J: read for nothing.
    """

    name = "ahead"
    lossless = False

    def __init__(self, top_j: int) -> None:
        self.top_j = top_j
        self.foreseen: mx.array | None = None
        self.waited = self.waits = self.wasted = 0

    def foresee(self, scores: mx.array) -> None:
        """Takes what the router says early."""
        self.foreseen = scores.astype(mx.float32)

    def rank(self, scores: Scores, resident: Mask, delta: float, k: int) -> Ids:
        """See `RoutingPolicy.rank`; counts who would have been waited for."""
        own, foreseen, self.foreseen = descending(scores), self.foreseen, None
        early = own[:0]
        chosen = own[:k]
        if foreseen is not None:
            order = descending(np.where(np.isfinite(scores), np.array(foreseen).reshape(-1), -np.inf))
            early, guarded = order[:k], own[: self.top_j]
            chosen = np.concatenate([guarded, order[~np.isin(order, guarded)][: k - guarded.size]])
        absent = chosen[~resident[chosen]]
        waited = absent.size - int(np.isin(absent, early).sum())
        self.waited += waited
        self.waits += waited > 0
        lost = early[~np.isin(early, chosen)]
        self.wasted += int((~resident[lost]).sum())
        return chosen


@contextmanager
def looking_ahead(layers: Sequence[LayerCache], distance: int) -> Iterator[list[RouteAhead]]:
    """Has each layer's router asked with the input of the layer `distance` before it; yields the policies.

    Args:
        layers: Of a model, routed by `RouteAhead`.
        distance: In MoE layers.
    """
    policies = [cache.policy for cache in layers]
    known = [policy for policy in policies if isinstance(policy, RouteAhead)]
    for place, policy in enumerate(policies):
        if place >= distance and isinstance(policy, RouteAhead):
            layers[place - distance].on_input = _asks(layers[place], policy)
    try:
        yield known
    finally:
        for cache in layers:
            cache.on_input = None


def _asks(cache: LayerCache, policy: RouteAhead) -> Callable[[mx.array], None]:
    router = cache.router
    assert router is not None
    return lambda x: policy.foresee(router(x))
