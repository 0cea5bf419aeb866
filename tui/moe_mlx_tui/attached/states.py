"""What a server says of its experts and counts, as the fields of a snapshot."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import fields, replace
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_mlx.conversation.figures import unpacked
from moe_mlx.counts.totals import PhaseTotals
from moe_mlx_tui.drawing.cells import ABSENT, AGE_EDGES, ARRIVED, COARSE, EVICTED, HELD, NEWEST, USED
from moe_mlx_tui.engine.snapshot import Machine, Memory, ModelFacts

_EDGES = np.array(AGE_EDGES, dtype=np.int64)
_COUNTERS = {field.name for field in fields(PhaseTotals)}
_MEMORY = {field.name for field in fields(Memory)}
_READ = ("bytes_read", "wasted_bytes")
_Pairs = tuple[tuple[int, int], ...]


class States:
    """The states of one model, in order.

    The counts of "this answer" begin where the server was last seen at rest: with several clients they are of all the
    answers that overlap.
    """

    def __init__(self, facts: ModelFacts) -> None:
        self.facts = facts
        self._seen: deque[tuple[float, int]] = deque(maxlen=8)
        self._resident: NDArray[np.bool_] | None = None
        self._busy = False
        self._last: tuple[PhaseTotals, PhaseTotals, _Pairs] | None = None
        self._from: tuple[PhaseTotals, PhaseTotals, _Pairs] | None = None

    def measured(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fields of a snapshot.

        Raises:
            KeyError, TypeError, ValueError, zlib.error: it is no state of this model.
        """
        decode, prefill = (totals_of(state[phase]) for phase in ("decode", "prefill"))
        pairs: _Pairs = tuple((int(hits), int(misses)) for hits, misses in state["layers"])
        now, busy = (decode, prefill, pairs), bool(state["running"])
        if self._last is None or self._from is None:
            self._last = self._from = now
        elif not self._busy and (busy or now[:2] != self._last[:2]):
            self._from = self._last
        self._last, self._busy = now, busy
        before_decode, before_prefill, before_pairs = self._from
        self._seen.append((float(state["time"]), int(state["generated"])))
        (since, before), (until, after) = self._seen[0], self._seen[-1]
        return {
            "time": float(state["time"]),
            "model": self.facts,
            "routing": str(state["routing"]),
            "slots_per_layer": tuple(map(add, state["slots_per_layer"], state["low_slots_per_layer"])),
            "running": decode,
            "answer": decode - before_decode,
            "prefill": prefill - before_prefill,
            "layer_hits": tuple(hits - was for (hits, _), (was, _) in zip(pairs, before_pairs, strict=True)),
            "layer_misses": tuple(misses - was for (_, misses), (_, was) in zip(pairs, before_pairs, strict=True)),
            "queued": int(state["waiting"]),
            "memory": Memory(**{name: int(value) for name, value in state["memory"].items() if name in _MEMORY}),
            "tps": (after - before) / (until - since) if until > since else 0.0,
            "machines": machines_of(state),
            **self.cells(state),
        }

    def cells(self, state: Mapping[str, Any]) -> dict[str, bytes]:
        """Returns the map of a snapshot."""
        slots, ages = unpacked(state, "slot_of").astype(np.int64), unpacked(state, "age").astype(np.int64)
        widths, held = np.array(self.facts.experts), np.array(state["slots_per_layer"])
        if slots.size != widths.sum() or held.size != widths.size:
            raise ValueError("a state of another model")
        top_k = np.repeat(np.maximum(1, np.array(self.facts.top_k)), widths)
        resident = slots >= 0
        cells = NEWEST - np.searchsorted(_EDGES, ages // top_k)
        cells[ages < top_k] = USED
        cells[np.repeat(held == widths, widths)] = HELD
        cells = np.where(resident, cells, ABSENT).astype(np.uint8)
        if self._resident is not None:
            cells[resident & ~self._resident & (cells != HELD)] = ARRIVED
            cells[self._resident & ~resident] = EVICTED
        cells[slots >= np.repeat(held, widths)] |= COARSE
        self._resident = resident
        counts = {name: unpacked(state, name).tobytes() for name in ("uses", "reads")}
        return {"cells": cells.tobytes(), "slots": slots.astype("<u2").tobytes(), **counts}


def facts_of(told: Mapping[str, Any]) -> ModelFacts:
    """Returns a model's facts as the app shows them."""
    experts, top_k, sizes = (tuple(map(int, told[part])) for part in ("experts", "top_k", "expert_bytes"))
    context, ranks = int(told.get("context_length") or 0), tuple(map(int, told.get("ranks") or ()))
    facts = ModelFacts(str(told["name"]), str(told["family"]), experts, top_k, sizes, context=context, ranks=ranks)
    if not told.get("thinking"):
        return facts
    start, end = map(str, told["thinking"])
    return replace(facts, thinking=(start, end))


def machines_of(told: Mapping[str, Any]) -> tuple[Machine, ...]:
    """Returns the machines that run a model together, as `/v1/experts` and rank 0 tell of them."""
    return tuple(
        Machine(
            rank=int(row["rank"]),
            name=str(row["machine"]),
            first=int(row["layers"][0]),
            last=int(row["layers"][-1]),
            hits=int(row["decode"]["hits"]),
            misses=int(row["decode"]["misses"]),
            bytes_read=sum(int(row[phase][name]) for phase in ("decode", "prefill") for name in _READ),
            waited=float(row["decode"]["wait_seconds"]),
            expert_slots=int(row["memory"]["expert_slots"]),
            footprint=int(row["memory"]["footprint"]),
            memory=int(row["memory"]["total"]),
            silent=float(row["silent_seconds"]),
        )
        for row in told.get("machines") or ()
    )


def totals_of(counts: Mapping[str, Any]) -> PhaseTotals:
    """Returns counters that came by name."""
    return PhaseTotals(**{name: value for name, value in counts.items() if name in _COUNTERS})
