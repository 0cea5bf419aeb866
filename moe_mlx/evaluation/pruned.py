"""Pruned: the model with a smaller top-k, a baseline of the evaluation only (arXiv 2412.00099)."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mlx.routing.policy import Ids, Mask, Scores, descending


@dataclass(frozen=True, slots=True)
class Pruned:
    """Keeps the true top `kept` of the model's k and chooses nothing else; the model weighs those that are left.

    Attributes:
        kept: k', from 1 to k.
        k: The model's top-k.
    """

    kept: int
    k: int
    name: str = "pruned"

    @property
    def top_j(self) -> int:
        """All that are kept are true top experts."""
        return self.kept

    @property
    def lossless(self) -> bool:
        """When nothing is pruned."""
        return self.kept >= self.k

    def rank(self, scores: Scores, resident: Mask, delta: float, k: int) -> Ids:
        """See `RoutingPolicy.rank`."""
        return descending(scores)[: min(self.kept, k)]
