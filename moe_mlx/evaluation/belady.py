"""Belady's offline optimum on a recorded sequence of choices: whoever is needed latest gives way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def next_uses(choices: Sequence[Sequence[int]], experts: int) -> list[list[int]]:
    """Returns, for each choice at each token, the next token that chooses the same expert; `T` if none does."""
    following = [len(choices)] * experts
    uses: list[list[int]] = []
    for token in range(len(choices) - 1, -1, -1):
        uses.append([following[expert] for expert in choices[token]])
        for expert in choices[token]:
            following[expert] = token
    uses.reverse()
    return uses


def belady_misses(choices: Sequence[Sequence[int]], experts: int, slots: int) -> NDArray[np.int64]:
    """Counts the fewest misses any eviction can have, event-atomically: a token's experts are all in at once.

    Args:
        choices: The distinct experts of each token.
        experts: Of the layer.
        slots: At least as many as any token chooses.

    Returns:
        `[T]`, misses of each token.
    """
    misses = np.zeros(len(choices), dtype=np.int64)
    needed: dict[int, int] = {}  # resident expert -> its next use
    for token, (chosen, uses) in enumerate(zip(choices, next_uses(choices, experts), strict=True)):
        absent = [expert for expert in chosen if expert not in needed]
        misses[token] = len(absent)
        for _ in range(len(needed) + len(absent) - slots):
            del needed[max((expert for expert in needed if expert not in chosen), key=lambda e: (needed[e], e))]
        needed.update(zip(chosen, uses, strict=True))
    return misses
