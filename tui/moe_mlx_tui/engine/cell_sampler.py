"""Reads the residency tables into bytes: a few array operations a layer, no object per expert. Engine side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moe_mlx_tui.drawing.cells import ABSENT, AGE_EDGES, ARRIVED, COARSE, EVICTED, HELD, LATE, NEWEST, USED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moe_mlx.expert_cache.residency import ResidencyTable
    from moe_mlx.loading.runtime import Runtime

_EDGES = np.array(AGE_EDGES, dtype=np.int64)


class CellSampler:
    """Knows the sample before, so that it can tell what has arrived and what had to go since."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._before: NDArray[np.bool_] | None = None
        self._lates: NDArray[np.int64] | None = None

    def sample(self) -> dict[str, bytes]:
        """Returns `cells`, `slots`, `uses` and `reads` of a `Snapshot`."""
        parts = [self._layer(cache.table, cache.spec.top_k) for cache in self.runtime.layers]
        cells = np.concatenate([part[0] for part in parts])
        slots = np.concatenate([part[1] for part in parts])
        resident = slots >= 0
        if self._before is not None and self._before.size == resident.size:
            cells[resident & ~self._before & (cells != HELD)] = ARRIVED
            cells[self._before & ~resident] = EVICTED
        lates = self._whole("lates")
        if self._lates is not None and self._lates.size == lates.size:
            cells[resident & (lates > self._lates)] = LATE
        cells[np.concatenate([_low(cache.table) for cache in self.runtime.layers])] |= COARSE
        self._before, self._lates = resident, lates
        return {
            "cells": cells.tobytes(),
            "slots": slots.astype("<u2").tobytes(),
            "uses": self._counts("uses"),
            "reads": self._counts("reads"),
        }

    def _counts(self, name: str) -> bytes:
        return self._whole(name).astype("<u4").tobytes()

    def _whole(self, name: str) -> NDArray[np.int64]:
        """Returns a copy of one count of every expert, layer after layer."""
        layers = self.runtime.layers
        return np.concatenate([np.frombuffer(getattr(cache.table, name), dtype=np.int64) for cache in layers])

    @staticmethod
    def _layer(table: ResidencyTable, top_k: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        slots = np.array(table.slot_of, dtype=np.int32)
        resident = slots >= 0
        if table.slots == table.experts:  # the clock of a layer held whole does not run
            return np.where(resident, HELD, ABSENT).astype(np.uint8), slots
        since = table.clock - np.frombuffer(table.used, dtype=np.int64)[slots]
        ages = NEWEST - np.searchsorted(_EDGES, since // max(1, top_k))
        ages[since < top_k] = USED
        return np.where(resident, ages, ABSENT).astype(np.uint8), slots


def _low(table: ResidencyTable) -> NDArray[np.bool_]:
    """Returns bool `[E]`: which experts have their high bits alone in memory."""
    return np.frombuffer(table.slot_of, dtype=np.int32) >= table.slots
