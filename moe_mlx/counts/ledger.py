"""Frozen records of what every step did. Everything that is shown or scored comes from here.

Each MoE layer logs one event per model call into an `EventLog`; the `Ledger` joins the events of one call to a
`StepRecord` and keeps the totals, prefill and decode apart.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moe_mlx.counts.event_log import DECODE, PREFILL, Event, EventLog
from moe_mlx.counts.reads import ReadStats, ReadTotals
from moe_mlx.counts.totals import LOGGED, PhaseTotals

#: Names by `PREFILL` and `DECODE`.
PHASES = ("prefill", "decode")
KEPT_RECORDS = 4096


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One model call: its number, its phase, its sums, and hits and misses layer by layer."""

    step: int
    phase: str
    totals: PhaseTotals
    layer_hits: tuple[int, ...]
    layer_misses: tuple[int, ...]
    complete: bool


class Ledger:
    """Joins the layers' events to steps, keeps totals and the latest records."""

    def __init__(self, layers: int) -> None:
        self.logs = [EventLog() for _ in range(layers)]
        self.records: deque[StepRecord] = deque(maxlen=KEPT_RECORDS)
        self.listeners: list[Callable[[StepRecord], None]] = []
        self.discarded_steps = 0
        #: Steps that may be under way beside the latest: in the graph, rows arrive when a step runs.
        self.lag = 0
        self._lock = threading.RLock()
        self._cursors = [0] * layers
        self._open: dict[int, dict[int, Event]] = {}
        self._totals = [PhaseTotals(), PhaseTotals()]
        self._layer_totals = [[0, 0] for _ in range(layers)]

    def collect(self, *, closing: bool = False) -> None:
        """Takes in what the layers have logged since the last call.

        Args:
            closing: Close every open step, complete or not; for when no step can be under way.
        """
        with self._lock:
            for layer, log in enumerate(self.logs):
                written = log.written[0]  # read once: the primitive writes on while we read, without the GIL
                for number in range(self._cursors[layer], written):
                    event = log.read(number)
                    self._open.setdefault(event.counts["step"], {})[layer] = event
                self._cursors[layer] = written
            for step in sorted(self._open):
                if closing or len(self._open[step]) == len(self.logs) or step < max(self._open) - self.lag:
                    self._close(step, self._open.pop(step))

    def _close(self, step: int, events: dict[int, Event]) -> None:
        counts = [event.counts for event in events.values()]
        phases = {one["phase"] for one in counts}
        phase = phases.pop() if len(phases) == 1 else PREFILL
        sums: dict[str, Any] = {}
        for logged in LOGGED:
            amount = sum(one[logged.event_field] for one in counts)
            sums[logged.total] = amount if logged.per == 1 else amount / logged.per
        sums["tokens"] = max(one["tokens"] for one in counts)  # every layer sees all of them
        totals = PhaseTotals(steps=1, weight_moved=sum(event.weight_moved for event in events.values()), **sums)
        hits, misses = (
            tuple(events[layer].counts[name] if layer in events else 0 for layer in range(len(self.logs)))
            for name in ("hits", "misses")
        )
        self._totals[phase] += totals
        if phase == DECODE:
            for layer, pair in enumerate(self._layer_totals):
                pair[0] += hits[layer]
                pair[1] += misses[layer]
        record = StepRecord(step, PHASES[phase], totals, hits, misses, len(events) == len(self.logs))
        self.records.append(record)
        for listener in self.listeners:
            listener(record)

    def totals(self, phase: int) -> PhaseTotals:
        """Running totals of a phase (`PREFILL` or `DECODE`)."""
        self.collect()
        return self._totals[phase]

    def layer_totals(self) -> list[tuple[int, int]]:
        """Decode hits and misses of each MoE layer."""
        self.collect()
        return [(hits, misses) for hits, misses in self._layer_totals]

    def discard(self, steps: int) -> None:
        """Notes steps whose tokens were computed ahead and never yielded; their reads stay in the totals."""
        self.discarded_steps += steps

    def reset(self) -> None:
        """Empties totals, records and the count of discarded steps."""
        with self._lock:
            self.collect(closing=True)
            self.records.clear()
            self.discarded_steps = 0
            self._totals = [PhaseTotals(), PhaseTotals()]
            self._layer_totals = [[0, 0] for _ in self.logs]


class Stats:
    """Running totals of a model: `stats.decode.hits`, `stats.prefill.bytes_read`, `stats.reset()`.

    Attributes:
        read_totals: Counts of every reader.
    """

    def __init__(self, ledger: Ledger, read_totals: ReadTotals) -> None:
        self._ledger, self.read_totals = ledger, read_totals

    @property
    def decode(self) -> PhaseTotals:
        """Totals of calls with one row and one position."""
        return self._ledger.totals(DECODE)

    @property
    def prefill(self) -> PhaseTotals:
        """Totals of every other call: prompts, batches, speculative verification."""
        return self._ledger.totals(PREFILL)

    @property
    def reads(self) -> ReadStats:
        """Expert reads of Python's readers and the primitive's: number, bytes, depth, latency."""
        return self.read_totals.stats()

    @property
    def discarded_steps(self) -> int:
        """Decode steps computed ahead whose token was never yielded, as far as the caller told us."""
        return self._ledger.discarded_steps

    @property
    def records(self) -> tuple[StepRecord, ...]:
        """The latest steps, oldest first (at most 4,096)."""
        self._ledger.collect()
        return tuple(self._ledger.records)

    def reset(self) -> None:
        """Empties the totals; residency and running ranges stay (`moe_mlx.reset` empties those too)."""
        self._ledger.reset()
        self.read_totals.reset()
