"""What a routing policy is: scores and residency in, k experts out. Float32 on the host, ties to the lower id.

The rules are those of "Mixture of Cache-Conditional Experts for Efficient Mobile Device Inference" (arXiv 2412.00099).
A policy only ranks; how the chosen are weighed stays the model's own business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moe_mlx.system.given import check_whole

Scores = NDArray[np.float32]
Ids = NDArray[np.intp]
Mask = NDArray[np.bool_]


def descending(scores: Scores) -> Ids:
    """Returns expert ids `[E]` by descending score, equal scores by ascending id."""
    return np.argsort(-scores, kind="stable")


class RoutingPolicy(Protocol):
    """Chooses k of E experts for one token of one layer."""

    @property
    def name(self) -> str:
        """As spelled on the command line."""

    @property
    def top_j(self) -> int:
        """How many of the true top experts can never be displaced."""

    @property
    def lossless(self) -> bool:
        """Whether the parameters are neutral, so that the model's own choice always stands."""

    def rank(self, scores: Scores, resident: Mask, delta: float, k: int) -> Ids:
        """Chooses.

        Args:
            scores: float32 `[E]`, what the model ranks by.
            resident: bool `[E]`, what is in memory before this token touched the layer.
            delta: Running mean of the range of the scores in this layer, this token included.
            k: How many to choose.

        Returns:
            `k` distinct ids, in any order (fewer under a policy that prunes).
        """


@dataclass(frozen=True, slots=True)
class Choice:
    """What a policy made of one token.

    Attributes:
        experts: The k chosen, in the order they are computed in: the model's own where the set is the model's own,
            else by descending score.
        swapped: How many of them exact routing would not have chosen.
        displaced: The ids that exact routing would have chosen and the policy did not.
    """

    experts: list[int]
    swapped: int
    displaced: tuple[int, ...]


def choose(policy: RoutingPolicy, scores: Scores, exact: list[int], resident: Mask, delta: float) -> Choice:
    """Applies `policy` to one token.

    Args:
        policy: The policy.
        scores: float32 `[E]`, what the model ranks by; minus infinity where the model itself rules an expert out.
        exact: The model's own k experts in the model's own order.
        resident: bool `[E]`.
        delta: Running mean of the score range, this token included.
    """
    if policy.lossless:
        return Choice(exact, 0, ())
    picked = _own_of_equals(scores, exact, policy.rank(scores, resident, delta, len(exact)))
    chosen = set(picked.tolist())
    displaced = tuple(expert for expert in exact if expert not in chosen)
    if not displaced:
        return Choice(exact, 0, ())
    picked = np.sort(picked)
    ordered = picked[np.argsort(-scores[picked], kind="stable")]
    return Choice(ordered.tolist(), len(chosen.difference(exact)), displaced)


def _own_of_equals(scores: Scores, exact: list[int], picked: Ids) -> Ids:
    """Returns `picked` with the model's own expert wherever it was displaced by one of exactly its score.

    Low precision makes equal scores common; which of them is among the first k is then the model's accident, and taking
    another would be a change of the answer that no policy asked for.
    """
    chosen, own = set(picked.tolist()), set(exact)
    displaced = [expert for expert in exact if expert not in chosen]
    if not displaced:
        return picked
    kept = picked.tolist()
    for place in sorted(range(len(kept)), key=kept.__getitem__):
        if kept[place] in own:
            continue
        equal = next((expert for expert in displaced if scores[expert] == scores[kept[place]]), None)
        if equal is not None:
            displaced.remove(equal)
            kept[place] = equal
    return np.array(kept, dtype=np.intp)


def check_top_j(top_j: int | None, k: int) -> int:
    """Returns J for a model with top-k: the caller's, or 1 for top-2 models and 2 otherwise, never above k.

    Raises:
        UsageError: J is negative.
    """
    if top_j is None:
        top_j = 1 if k <= 2 else 2
    check_whole("route_top_j", top_j, 0, of="experts")
    return min(top_j, k)


def finite_range(scores: Scores) -> float:
    """Returns max - min of float32 scores, computed in float32; ruled-out experts (not finite) do not count."""
    finite = scores[np.isfinite(scores)]
    return float(finite.max() - finite.min()) if finite.size else 0.0
