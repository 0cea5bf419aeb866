"""Exact routing: the model's own choice, whatever is resident."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mlx.routing.policy import Ids, Mask, Scores, descending


@dataclass(frozen=True, slots=True)
class Exact:
    """Never changes a choice."""

    name: str = "exact"
    top_j: int = 0

    @property
    def lossless(self) -> bool:
        """Always."""
        return True

    def rank(self, scores: Scores, resident: Mask, delta: float, k: int) -> Ids:
        """Returns the true top-k."""
        return descending(scores)[:k]
