"""Who travels with whom: how often each expert is used, which are used together, and what follows in the next layer.

Affinity between layers is what ExFlow (arXiv 2401.08383) places experts by; co-activation within a layer is what
Dynamic-DINO (arXiv 2507.17436) looks at. Both are counted from a trace's exact choices. Knows no MLX.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_mlx.evaluation.trace import LayerTrace
from moe_mlx.history.file import LayerHistory

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class LayerUse:
    """One layer's use.

    Attributes:
        uses: float64 `[E]`, uses of each expert; those of a history are aged, so no whole numbers.
        together: int64 `[E, E]`, tokens that used both; the diagonal is `uses`. None where it was not recorded.
        onward: int64 `[E, E']`, tokens that used the one here and the other in the next layer; None in the last layer,
            and where it was not recorded.
        tokens: Tokens counted.
    """

    uses: NDArray[np.float64]
    together: Counts | None
    onward: Counts | None
    tokens: float

    @property
    def used(self) -> int:
        """Experts that were ever used."""
        return int((self.uses > 0).sum())

    @property
    def effective(self) -> float:
        """How many equally used experts have the same entropy: E where use is even, 1 where one does everything."""
        shares = self.uses[self.uses > 0] / max(self.uses.sum(), 1e-300)
        return float(math.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0

    def carried(self, share: float) -> float:
        """Returns the share of uses that the most used `share` of the experts carry; at least one expert."""
        most = max(1, round(share * len(self.uses)))
        total = self.uses.sum()
        return float(np.sort(self.uses)[::-1][:most].sum() / total) if total else 0.0

    def hottest(self, count: int) -> list[int]:
        """Returns the most used experts, ties to the lower number; never one that was not used."""
        order = np.argsort(-self.uses, kind="stable")[:count]
        return [int(expert) for expert in order if self.uses[expert] > 0]

    def pairs(self, count: int) -> list[tuple[int, int, float, float]]:
        """Returns the pairs that are used together most often.

        Returns:
            Lower expert, higher expert, share of tokens that used both, and how many times more often that is than if
            the two were chosen apart from each other.
        """
        if self.together is None or not self.tokens:
            return []
        rows, columns = np.triu_indices(len(self.uses), k=1)
        both = self.together[rows, columns]
        found = []
        for place in np.argsort(-both, kind="stable")[:count]:
            first, second = int(rows[place]), int(columns[place])
            if both[place]:
                chance = self.uses[first] * self.uses[second] / self.tokens
                found.append((first, second, float(both[place] / self.tokens), float(both[place] / chance)))
        return found


def chosen_mask(layer: LayerTrace) -> NDArray[np.bool_]:
    """Returns bool `[T, E]`: what the model itself chose at each token."""
    mask = np.zeros((layer.exact.shape[0], layer.experts), dtype=np.bool_)
    for token, experts in enumerate(layer.exact_choices()):
        mask[token, experts] = True
    return mask


def uses_of_trace(layers: Sequence[LayerTrace]) -> list[LayerUse]:
    """Counts a trace's layers, in the order of execution."""
    masks = [chosen_mask(layer).astype(np.float32) for layer in layers]  # exact below 2^24 tokens, and BLAS takes it
    found = []
    for place, mask in enumerate(masks):
        following = masks[place + 1] if place + 1 < len(masks) else None
        found.append(
            LayerUse(
                uses=mask.sum(axis=0, dtype=np.float64),
                together=(mask.T @ mask).astype(np.int64),
                onward=None if following is None else (mask.T @ following).astype(np.int64),
                tokens=float(len(mask)),
            )
        )
    return found


def uses_of_history(layers: Sequence[LayerHistory], top_k: Sequence[int]) -> list[LayerUse]:
    """Returns what a history tells: uses at decode, aged; who was used with whom is not in it."""
    return [LayerUse(np.array(layer.uses), None, None, layer.tokens(k)) for layer, k in zip(layers, top_k, strict=True)]
