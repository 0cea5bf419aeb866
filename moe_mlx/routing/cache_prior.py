"""Cache-Prior: resident experts get a bonus in the ranking (arXiv 2412.00099, its best policy and our default)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moe_mlx.routing.policy import Ids, Mask, Scores, descending


@dataclass(frozen=True, slots=True)
class CachePrior:
    """Ranks by `z + lam * delta * m`, where m marks residents and the true top-J.

    Attributes:
        lam: Strength in [0, 1]; 0 is exact routing.
        top_j: True top experts that get the same bonus, so that no resident can push them out.
    """

    lam: float
    top_j: int
    name: str = "cache-prior"

    @property
    def lossless(self) -> bool:
        """At strength 0."""
        return self.lam == 0.0

    def rank(self, scores: Scores, resident: Mask, delta: float, k: int) -> Ids:
        """See `RoutingPolicy.rank`."""
        favoured = resident.copy()
        if self.top_j:
            favoured[descending(scores)[: self.top_j]] = True
        bonus = np.float32(np.float32(self.lam) * np.float32(delta))
        return descending(np.where(favoured, scores + bonus, scores))[:k]
