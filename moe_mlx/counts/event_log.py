"""What one layer did in each model call, written by whoever runs the step, in memory that the primitive shares."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from moe_mlx.counts.totals import LOGGED

PREFILL, DECODE = 0, 1


@dataclass(frozen=True, slots=True)
class Event:
    """One layer in one model call.

    Attributes:
        counts: Every field of `EventLog.FIELDS` by name.
        weight_moved: Exact router weight of the experts that were displaced.
    """

    counts: Mapping[str, int]
    weight_moved: float


class EventLog:
    """A ring of one layer's events.

    Attributes:
        rows: int64 `[ROWS, len(FIELDS)]`.
        weights_moved: float64 `[ROWS]`, the weight moved in the same row.
        written: int64 `[1]`, rows ever written; a row is complete before the count moves.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("step", "phase", *(logged.event_field for logged in LOGGED))
    ROWS: ClassVar[int] = 256

    _PLACE: ClassVar[dict[str, int]] = {name: place for place, name in enumerate(FIELDS)}

    def __init__(self) -> None:
        self.rows = array("q", [0]) * (self.ROWS * len(self.FIELDS))
        self.weights_moved = array("d", [0.0]) * self.ROWS
        self.written = array("q", [0])

    def write(self, step: int, phase: int, *, weight_moved: float = 0.0, **counts: int) -> None:
        """Appends one event.

        Args:
            step: Number of the model call.
            phase: `PREFILL` or `DECODE`.
            weight_moved: Exact router weight of the displaced.
            **counts: Fields of `FIELDS` by name; what is left out is 0.
        """
        values = array("q", [0]) * len(self.FIELDS)
        values[self._PLACE["step"]], values[self._PLACE["phase"]] = step, phase
        for name, value in counts.items():
            values[self._PLACE[name]] = value
        row = self.written[0] % self.ROWS
        self.rows[row * len(values) : (row + 1) * len(values)] = values
        self.weights_moved[row] = weight_moved
        self.written[0] += 1

    def read(self, number: int) -> Event:
        """Returns event `number`; 0 is the first ever written."""
        row, width = number % self.ROWS, len(self.FIELDS)
        values = self.rows[row * width : (row + 1) * width]
        return Event(dict(zip(self.FIELDS, values, strict=True)), self.weights_moved[row])
