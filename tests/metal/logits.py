"""Logits of a few decode steps, and how far two runs of them lie apart."""

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

TOKENS = (1, 7, 3, 20, 5, 9, 2, 11)
#: Of the largest logit; float32 sums of a few hundred terms in another order.
CLOSE = 1e-3


def decoded(model: object, turns: int = 1) -> list[np.ndarray]:
    """Decodes `TOKENS` one by one, from an empty KV cache each turn."""
    rows = []
    for _ in range(turns):
        cache = make_prompt_cache(model)
        rows += [model(mx.array([[token]]), cache=cache) for token in TOKENS]
    mx.eval(rows)
    return [np.array(row.astype(mx.float32)) for row in rows]


def largest_difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Returns the largest difference of two logits, as a share of the largest logit."""
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True))
