"""The mixins that stand in front of mlx-lm's classes: lossy decode steps are theirs, nothing else is."""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx

from moe_mlx.expert_cache.switch import CappedSwitch
from moe_mlx.families.blocks import Site
from moe_mlx.families.routers import Ranking, Router, attribute


class Routing:
    """What a routed module holds: its site and, outside the parameters, the switch it routes for."""

    def __init__(self, site: Site, switch: CappedSwitch) -> None:
        assert site.router is not None
        self.site, self.switch = site, switch
        self.router: Router = site.router

    def takes(self, module: Any, x: mx.array) -> bool:
        """Whether the policy routes this call; if not, notes the scores of its rows for whoever needs them."""
        switch, router = self.switch, self.router
        switch.guess_next(x)
        if (tell := switch.cache.weighed) is not None:
            ranking = router.ranking(module, x)
            tell(router.weights(module, x, ranking, ranking.exact))
        rows = x.size // x.shape[-1]
        if switch.routes(rows):
            return True
        if switch.cache.recorder is not None and rows == 1:
            ranking = router.ranking(module, x)
            switch.observe(ranking.scores, raw=ranking.raw, weigh=_order(ranking))
        elif switch.cache.lossy or (switch.cache.wants_scores and rows == 1):
            switch.observe(router.observed(module, x))
        return False

    def routed(self, module: Any, x: mx.array) -> tuple[mx.array, mx.array]:
        """Returns experts `[..., k]` and weights of a block that is stood in for in every call, exact ones too."""
        if self.takes(module, x):
            return self.choose(module, x)
        ranking = self.router.ranking(module, x)
        chosen = mx.stop_gradient(ranking.exact)
        return chosen, self.router.weights(module, x, ranking, chosen)

    def choose(self, module: Any, x: mx.array) -> tuple[mx.array, mx.array]:
        """Returns the chosen experts `[..., k]`, to be passed to the switch as they are, and the model's weights.

        Late experts weigh 0 here; what they weigh joins a later block's output.
        """
        router = self.router
        ranking = router.ranking(module, x)
        weights = router.weights(module, x, ranking, ranking.exact)
        lateness = self.switch.cache.lateness
        chosen = self.switch.select(
            ranking.scores,
            ranking.exact,
            raw=ranking.raw,
            weigh=_order(ranking),
            weights=weights,
            shares=router.shares(ranking) if lateness.judges else None,
        )
        if chosen is not ranking.exact:
            weights = router.weights(module, x, ranking, chosen)
        return chosen, lateness.part(weights)


def _order(ranking: Ranking) -> mx.array | None:
    return None if ranking.same_order else ranking.weighed


class RoutedGate:
    """For a module that returns (indices, weights)."""

    def __call__(self: Any, x: mx.array) -> tuple[mx.array, mx.array]:
        """Routes `[..., D]`."""
        if self.routing.takes(self, x):
            choice: tuple[mx.array, mx.array] = self.routing.choose(self, x)
            return choice
        return super().__call__(x)  # type: ignore[misc]


class RoutedBlock:
    """For a block that routes inline: its decode step is restated, `enter` before the experts, `combine` after."""

    def __call__(self: Any, x: mx.array, **kwargs: Any) -> mx.array:
        """Computes `[..., D]`; a call that tells more, such as which rows are of pictures, is the model's own."""
        routing = self.routing
        if any(value is not None for value in kwargs.values()) or not routing.takes(self, x):
            return super().__call__(x, **kwargs)  # type: ignore[misc]
        site = routing.site
        h = x.reshape(-1, x.shape[-1]) if site.flat else x
        chosen, weights = routing.choose(self, h)
        y = attribute(self, site.switch)(site.enter(self, h), chosen)
        out: mx.array = site.combine(self, h, y, weights)
        return out.reshape(x.shape) if site.flat else out


class LateBlock:
    """For a block whose output is added to the residual: adds what an earlier layer's late experts give."""

    def __call__(self: Any, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        """Computes `[..., D]`."""
        out: mx.array = super().__call__(x, *args, **kwargs)  # type: ignore[misc]
        return self.lateness.join(out, partial(self.added_late, self, x))
