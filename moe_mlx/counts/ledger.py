"""Frozen records of what every step did. Everything that is shown or scored comes from here.

Each MoE layer logs one event per model call into an `EventLog`; the `Ledger` joins the events of one call to a
`StepRecord` and keeps the totals, prefill and decode apart.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from moe_mlx.counts.reads import ReadStats, ReadTotals
from moe_mlx.counts.totals import PhaseTotals

PREFILL, DECODE = 0, 1
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


class EventLog:
    """A ring of one layer's events, written by whoever runs the step, in memory the primitive can share.

    Row layout, int64: `FIELDS`. `reals` holds the displaced weight of the same row. `written[0]` counts rows ever
    written; a row is complete before the count moves.
    """

    FIELDS: ClassVar[tuple[str, ...]] = (
        "step", "phase", "tokens", "hits", "misses", "swapped", "bytes_read", "wait_ns", "read_backs", "choices",
        "waits", "host_ns", "hinted", "hint_hits", "wasted_bytes",
    )  # fmt: skip
    ROWS: ClassVar[int] = 256

    def __init__(self) -> None:
        self.rows = array("q", [0]) * (self.ROWS * len(self.FIELDS))
        self.reals = array("d", [0.0]) * self.ROWS
        self.written = array("q", [0])

    def write(self, values: Sequence[int], weight_moved: float = 0.0) -> None:
        """Appends one event; `values` in the order of `FIELDS`, trailing zeros left out."""
        row = self.written[0] % self.ROWS
        width = len(self.FIELDS)
        padded = [*values, *(0,) * (width - len(values))]
        self.rows[row * width : (row + 1) * width] = array("q", padded)
        self.reals[row] = weight_moved
        self.written[0] += 1

    def read(self, number: int) -> tuple[array[int], float]:
        """Returns event `number` (0 is the first ever written) and its displaced weight."""
        row, width = number % self.ROWS, len(self.FIELDS)
        return self.rows[row * width : (row + 1) * width], self.reals[row]


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
        self._open: dict[int, dict[int, tuple[array[int], float]]] = {}
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
                    row, moved = log.read(number)
                    self._open.setdefault(row[0], {})[layer] = (row, moved)
                self._cursors[layer] = written
            for step in sorted(self._open):
                if closing or len(self._open[step]) == len(self.logs) or step < max(self._open) - self.lag:
                    self._close(step, self._open.pop(step))

    def _close(self, step: int, events: dict[int, tuple[array[int], float]]) -> None:
        rows = [events[layer][0] for layer in sorted(events)]
        tokens = max(row[2] for row in rows)
        sums = [sum(row[place] for row in rows) for place in range(len(EventLog.FIELDS))]
        phase = max(row[1] for row in rows) if all(row[1] == rows[0][1] for row in rows) else PREFILL
        totals = PhaseTotals(
            steps=1, tokens=tokens, hits=sums[3], misses=sums[4], swapped=sums[5], bytes_read=sums[6],
            wait_seconds=sums[7] / 1e9, read_backs=sums[8], choices=sums[9], waits=sums[10],
            host_seconds=sums[11] / 1e9, hinted=sums[12], hint_hits=sums[13], wasted_bytes=sums[14],
            weight_moved=sum(moved for _, moved in events.values()),
        )  # fmt: skip
        hits = tuple(events[layer][0][3] if layer in events else 0 for layer in range(len(self.logs)))
        misses = tuple(events[layer][0][4] if layer in events else 0 for layer in range(len(self.logs)))
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
