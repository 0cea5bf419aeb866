"""Max-Rank and Cumulative: residents may stand in, but only from among the best M (arXiv 2412.00099)."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from moe_mlx.routing.policy import Ids, Mask, Scores, descending


def fill(scores: Scores, order: Ids, resident: Mask, top_j: int, pool: int, k: int) -> Ids:
    """Takes the true top-J, then residents among the top `pool` in rank order, then plain rank order."""
    inside = np.zeros(order.size, dtype=bool)
    inside[:pool] = resident[order[:pool]] & np.isfinite(scores[order[:pool]])
    inside[:top_j] = True
    first, rest = order[inside][:k], order[~inside]
    return np.concatenate([first, rest[: k - first.size]])


@dataclass(frozen=True, slots=True)
class MaxRank:
    """Keeps the true top-J and fills up with residents among the top M.

    Attributes:
        max_rank: M; at most k it is exact routing.
        top_j: True top experts always chosen.
        k: The model's top-k.
    """

    max_rank: int
    top_j: int
    k: int
    name: str = "max-rank"

    @property
    def lossless(self) -> bool:
        """While M is no larger than k."""
        return self.max_rank <= self.k

    def rank(self, scores: Scores, resident: Mask, delta: float, k: int) -> Ids:
        """See `RoutingPolicy.rank`."""
        return fill(scores, descending(scores), resident, self.top_j, self.max_rank, k)


@dataclass(frozen=True, slots=True)
class Cumulative:
    """Max-Rank whose M is, token by token, the fewest top experts that hold a share `mass` of softmax(z).

    Attributes:
        mass: p in [0, 1]; 0 is exact routing.
        top_j: True top experts always chosen.
    """

    mass: float
    top_j: int
    name: str = "cumulative"

    @property
    def lossless(self) -> bool:
        """At mass 0."""
        return self.mass == 0.0

    def rank(self, scores: Scores, resident: Mask, delta: float, k: int) -> Ids:
        """See `RoutingPolicy.rank`."""
        order = descending(scores)
        top = float(scores[order[0]])
        # libm's exp and a plain running sum, in float64: the primitive gets the same bits, numpy's own exp has no twin.
        held = list(accumulate(math.exp(score - top) for score in scores[order].tolist()))
        pool = bisect_left(held, self.mass * held[-1]) + 1
        return fill(scores, order, resident, self.top_j, min(pool, order.size), k)
