"""Unwaited: no expert is waited for; what is absent is left out and read for the next token. A baseline of `eval` only.

What is left out weighs whatever the router says, the heaviest expert included; the model weighs those that are left.
A layer waits for one expert where none of a token's is there, since its output would be nothing otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.routing.names import UNWAITED
from moe_mlx.routing.policy import Ids, Mask, Scores, descending


class Unwaited:
    """A layer's policy: those of the model's own choice that are resident.

    Attributes:
        top_j: How many of the true top experts can never be displaced: none.
        lossless: Never.
        left_out: What the latest token would have chosen and was absent, the heaviest first.
    """

    name, top_j, lossless = UNWAITED, 0, False

    def __init__(self) -> None:
        self.left_out: list[int] = []

    def rank(self, scores: Scores, resident: Mask, delta: float, k: int) -> Ids:
        """See `RoutingPolicy.rank`."""
        wanted = descending(scores)[:k]
        there = wanted[resident[wanted]]
        picked = there if there.size else wanted[:1]
        self.left_out = [expert for expert in wanted.tolist() if expert not in picked]
        return picked


class ReadBehind:
    """Reads, between two tokens, what the first left out.

    Attributes:
        totals: Those reads, as misses that nobody waited for.
    """

    def __init__(self, layers: Sequence[LayerCache]) -> None:
        self._layers, self.totals = layers, PhaseTotals()

    def after_token(self) -> None:
        """To be called after each token."""
        for cache in self._layers:
            assert isinstance(cache.policy, Unwaited)
            wanted, cache.policy.left_out = cache.stored(cache.policy.left_out), []
            if wanted and not cache.full:
                absent = len([expert for expert in wanted if cache.table.slot_of[expert] < 0])
                self.totals += PhaseTotals(misses=absent, late=absent, bytes_read=cache.fill(wanted))
