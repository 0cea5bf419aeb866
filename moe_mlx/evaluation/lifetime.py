"""How long experts stay: derived from misses alone, since an expert that came in goes only when another comes in."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def residence(misses: NDArray[np.int64], slots: int) -> tuple[int, int]:
    """Sums up the stays of one layer that began empty.

    Args:
        misses: `[T]`, experts brought in at each token.
        slots: Of the layer.

    Returns:
        Tokens that experts spent resident (their first token included), and how many stays that were; stays under way
        at the end count as they are.
    """
    resident = np.minimum(np.cumsum(misses), slots)
    return int(resident.sum()), int(misses.sum())


def lifetime(layers: Iterable[tuple[NDArray[np.int64], int, int]]) -> float:
    """Returns the mean number of consecutive tokens an expert stays resident, over all layers.

    Args:
        layers: Misses `[T]`, slots and experts of each layer. A layer with a slot for each expert keeps every one of
            them for all `T` tokens.
    """
    spent = stays = 0
    for misses, slots, experts in layers:
        tokens, began = (misses.size * experts, experts) if slots == experts else residence(misses, slots)
        spent, stays = spent + tokens, stays + began
    return spent / stays if stays else 0.0
