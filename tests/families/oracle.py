"""mlx-lm's own routing code, watched as it ranks and told what to choose: the reference that ours is held to.

While an `Oracle` is in force, the `mx` that a model file sees is a stand-in whose `argpartition` notes what the file
ranks by and returns the choice it was given. Everything else, the weighing above all, is the file's own code.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np


class Oracle:
    """Stands in for `mlx.core` in one model file.

    Attributes:
        seen: Per routing, in order: what the file ranked by, the same before groups were masked, and its own choice.
        told: Choices to return instead of the file's own, in order; while there are none, the file's own stands.
    """

    def __init__(self, candidates: int) -> None:
        self.candidates = candidates
        self.seen: list[tuple[np.ndarray, np.ndarray, list[int]]] = []
        self.told: list[list[int]] = []
        self._unmasked: mx.array | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(mx, name)

    def put_along_axis(self, array: mx.array, indices: mx.array, values: mx.array, axis: int) -> mx.array:
        """Notes the scores of all groups before some are masked."""
        if axis == -2:
            self._unmasked = mx.flatten(array, -2, -1)
        return mx.put_along_axis(array, indices, values, axis=axis)

    def argpartition(self, array: mx.array, kth: int, axis: int = -1) -> mx.array:
        """Notes a ranking of experts, and answers with the choice it was given."""
        if axis != -1 or array.shape[-1] != self.candidates:
            return mx.argpartition(array, kth=kth, axis=axis)
        k = kth + 1 if kth >= 0 else -kth
        order = mx.argpartition(array, kth=kth, axis=axis)
        own = order[..., :k] if kth >= 0 else order[..., -k:]
        ranked = -array if kth >= 0 else array
        raw = ranked if self._unmasked is None else self._unmasked
        self._unmasked = None
        for row, before, chosen in zip(
            *(np.array(a).reshape(-1, a.shape[-1]) for a in (ranked, raw, own)), strict=True
        ):
            self.seen.append((row, before, chosen.tolist()))
        if not self.told or own.size > k:
            return own
        return mx.array(self.told.pop(0), dtype=own.dtype).reshape(own.shape)


@contextmanager
def oracle_in(file: str, candidates: int) -> Iterator[Oracle]:
    """Puts an oracle in a model file, whose compiled functions run uncompiled meanwhile."""
    module = importlib.import_module(f"mlx_lm.models.{file}")
    stand_in = Oracle(candidates)
    mx.disable_compile()
    module.mx = stand_in
    try:
        yield stand_in
    finally:
        module.mx = mx
        mx.enable_compile()


def cache_prior(
    scores: np.ndarray, kept: np.ndarray, exact: list[int], resident: np.ndarray, delta: float, lam: float, top_j: int
) -> list[int]:
    """The rule of ROUTING.md in plain NumPy, for one token of one layer.

    Args:
        scores: float64 `[E]`, what the model ranks by, before groups are masked.
        kept: bool `[E]`, whether an expert's group is a candidate.
        exact: The model's own choice in its own order.
        resident: bool `[E]`.
        delta: Running mean of the range of `scores`.
        lam: Strength.
        top_j: True top experts that get the bonus too.
    """
    allowed = np.where(kept, scores, -np.inf)
    favoured = resident.copy()
    favoured[np.argsort(-allowed, kind="stable")[:top_j]] = True
    chosen = np.argsort(-(allowed + lam * delta * favoured), kind="stable")[: len(exact)].tolist()
    if set(chosen) == set(exact):
        return exact
    return sorted(chosen, key=lambda e: (-allowed[e], e))
