"""Guessers of the next layer's experts, judged on a trace as the runtime's prefetch is: precision, recall, waste.

A guesser learns from the first half of a trace and is judged on the second. A guess is *begun* where its expert is
absent, and *right* where the token then chooses it; residency is that of exact routing under LRU at a share of the
experts, since a right guess changes no residency. Knows no MLX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_mlx.evaluation.affinity import chosen_mask
from moe_mlx.evaluation.trace import LayerTrace
from moe_mlx.expert_cache.eviction import LeastRecentlyUsed
from moe_mlx.expert_cache.residency import ResidencyTable

Scores = NDArray[np.float64]
#: Uses that every pair is credited with before any was seen, so that what was never seen is unlikely, not impossible.
PRIOR_USES = 1.0


@dataclass(frozen=True, slots=True)
class Guessed:
    """What prefetching by a guesser would have come to.

    Attributes:
        guesser: Its name.
        tokens: Tokens it was judged on.
        begun: Guessed experts that were absent, so that their reads would have begun.
        right: Those that the token then chose.
        misses: Chosen experts that were absent.
        wasted_bytes: Bytes of the guesses that were wrong.
    """

    guesser: str
    tokens: int
    begun: int
    right: int
    misses: int
    wasted_bytes: int

    @property
    def precision(self) -> float:
        """Share of the reads begun that the token used; 0 where none was."""
        return self.right / self.begun if self.begun else 0.0

    @property
    def recall(self) -> float:
        """Share of the misses that were guessed; 0 where nothing was missed."""
        return self.right / self.misses if self.misses else 0.0


def judge(layers: Sequence[LayerTrace], slots: Sequence[int], extra: int = 0, learned: float = 0.5) -> list[Guessed]:
    """Judges every guesser that the trace allows.

    Args:
        layers: A trace of exact routing, at least two layers.
        slots: Slots of each layer.
        extra: Experts guessed beyond a layer's top_k, as `--prefetch-extra` has it.
        learned: Share of the trace, from its beginning, that is learned from and not judged on.

    Returns:
        "gate" (the next layer's own router, asked early) where the trace holds its scores, "affinity" (what followed
        the experts just chosen), "hottest" (what is used most).
    """
    masks = [chosen_mask(layer) for layer in layers]
    begins = int(len(masks[0]) * learned)
    absences = [_absent(layer, count)[begins:] for layer, count in zip(layers[1:], slots[1:], strict=True)]
    guessers: dict[str, Callable[[int], Scores]] = {
        "affinity": lambda place: _followers(masks[place], masks[place + 1], begins),
        "hottest": lambda place: np.broadcast_to(
            masks[place + 1][:begins].sum(axis=0, dtype=np.float64), masks[place + 1][begins:].shape
        ),
    }
    if all(layer.guess is not None for layer in layers[1:]):
        guessers = {"gate": lambda place: _from_gate(layers[place + 1], begins), **guessers}
    found = []
    for name, scores_of in guessers.items():
        begun = right = misses = wasted = 0
        for place, absent in enumerate(absences):
            layer, chosen = layers[place + 1], masks[place + 1][begins:]
            guess = _best(scores_of(place), min(max(1, layer.top_k + extra), layer.experts)) & absent
            hits = int((guess & chosen).sum())
            begun, right, misses = begun + int(guess.sum()), right + hits, misses + int((absent & chosen).sum())
            wasted += (int(guess.sum()) - hits) * layer.expert_nbytes
        found.append(Guessed(name, len(masks[0]) - begins, begun, right, misses, wasted))
    return found


def _followers(here: NDArray[np.bool_], there: NDArray[np.bool_], begins: int) -> Scores:
    """`[T - begins, E']`: for each token the sum, over the experts chosen here, of how likely each is to follow."""
    seen = here[:begins].astype(np.float64)
    follows = there[:begins].astype(np.float64)
    base = follows.mean(axis=0, keepdims=True) if begins else np.zeros((1, there.shape[1]))
    uses = seen.sum(axis=0)[:, None]
    likely = (seen.T @ follows + PRIOR_USES * base) / (uses + PRIOR_USES)
    return here[begins:].astype(np.float64) @ likely


def _from_gate(layer: LayerTrace, begins: int) -> Scores:
    assert layer.guess is not None
    return layer.guess[begins:, : layer.experts].astype(np.float64)


def _best(scores: Scores, count: int) -> NDArray[np.bool_]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    mask = np.zeros(scores.shape, dtype=np.bool_)
    np.put_along_axis(mask, order, True, axis=1)
    return mask


def _absent(layer: LayerTrace, slots: int) -> NDArray[np.bool_]:
    """Bool `[T, E]`: what was not in memory before each token, under exact routing and LRU."""
    table = ResidencyTable(layer.experts, slots, LeastRecentlyUsed())
    slot_of = np.frombuffer(table.slot_of, dtype=np.int32)
    absent = np.empty((layer.exact.shape[0], layer.experts), dtype=np.bool_)
    for token, experts in enumerate(layer.exact_choices()):
        absent[token] = slot_of < 0
        for placement in table.begin(experts).misses:
            table.commit(placement)
    return absent
