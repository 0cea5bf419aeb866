"""Every counter, by name: the one list that event rows, totals, receipts and `--json` are made from.

A counter is a field of `PhaseTotals`, and a line of the same name in `native/core/event.h`. What is logged, summed,
shown and written follows. New ones go to the end: recordings hold totals as a list in this order.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

_BILLION = 10**9


def hit_rate(hits: int, misses: int) -> float:
    """Returns hits as a share of hits and misses; 0 where nothing was chosen."""
    return hits / (hits + misses) if hits + misses else 0.0


def swapped_share(swapped: int, hits: int, misses: int) -> float:
    """Returns swapped as a share of hits and misses; 0 where nothing was chosen."""
    return swapped / (hits + misses) if hits + misses else 0.0


class ChoiceShares:
    """Shares of what was chosen, for whoever counts hits, misses and swapped."""

    __slots__ = ()
    hits: int
    misses: int
    swapped: int

    @property
    def hit_rate(self) -> float:
        """Hits as a share of hits and misses; 0 where nothing was chosen."""
        return hit_rate(self.hits, self.misses)

    @property
    def miss_rate(self) -> float:
        """Misses as a share of hits and misses; 0 where nothing was chosen."""
        return hit_rate(self.misses, self.hits)

    @property
    def swapped_share(self) -> float:
        """Swapped as a share of hits and misses; 0 where nothing was chosen."""
        return swapped_share(self.swapped, self.hits, self.misses)


def _scaled(event_field: str) -> Any:
    """Declares seconds, or shares, that an event logs in billionths, under another name."""
    return field(default=0.0, metadata={"event_field": event_field, "per": _BILLION})


def _not_in_rows(default: float) -> Any:
    """Declares what the integers of an event row do not hold."""
    return field(default=default, metadata={"event_field": None})


@dataclass(frozen=True, slots=True)
class PhaseTotals(ChoiceShares):
    """Sums over the steps of one phase.

    Attributes:
        steps: Model calls.
        tokens: Rows that went through the model (discarded look-ahead steps included).
        hits: Chosen experts that were resident; in a prompt an expert counts once per layer and chunk.
        misses: Chosen experts that had to be read.
        swapped: Chosen experts that exact routing would not have chosen.
        bytes_read: Bytes read for misses, on demand or by prefetch.
        wait_seconds: Seconds the step stood still for reads.
        read_backs: Times the routing of a layer was read back to Python.
        weight_moved: Sum of the exact router weights of the experts that were displaced.
        choices: Chosen experts counted token by token (`tokens * top_k` over layers).
        waits: Times the model's device had to wait for the host's choice of a layer: one per layer under a cap.
        host_seconds: Seconds the host took to choose and look up (and to guess, with prefetch), reads not counted.
        hinted: Guessed experts whose read was begun.
        hint_hits: Misses that were served by one; they are misses all the same, and in `bytes_read`.
        wasted_bytes: Bytes prefetched that no step used; beside `bytes_read`.
        late: Misses of light experts whose output was added a layer later; they are misses all the same.
        late_weight: Their share of the token's weight in their layer, summed.
        read_waits: Times a layer waited for reads before it went on: one per layer and step with misses that were not
            late.
        waits_saved: Times a layer did not have to, because all its misses were late.
        coarse: Light experts that were used at their high bits, whether they were resident so or read so.
        coarse_weight: Their share of the token's weight in their layer, summed.
        promotions: Misses of which only the low bits were read, because the high ones were resident.
        coarse_bytes: Bytes of `bytes_read` that were high bits, with scales and biases, of coarse experts.
        rest_bytes: Bytes of it that were low bits, of promotions.
    """

    steps: int = _not_in_rows(0)
    tokens: int = 0
    hits: int = 0
    misses: int = 0
    swapped: int = 0
    bytes_read: int = 0
    wait_seconds: float = _scaled("wait_ns")
    read_backs: int = 0
    weight_moved: float = _not_in_rows(0.0)
    choices: int = 0
    waits: int = 0
    host_seconds: float = _scaled("host_ns")
    hinted: int = 0
    hint_hits: int = 0
    wasted_bytes: int = 0
    late: int = 0
    late_weight: float = _scaled("late_weight_ppb")
    read_waits: int = 0
    waits_saved: int = 0
    coarse: int = 0
    coarse_weight: float = _scaled("coarse_weight_ppb")
    promotions: int = 0
    coarse_bytes: int = 0
    rest_bytes: int = 0

    @property
    def hint_precision(self) -> float:
        """Share of the prefetched experts that a step used; 0 where none was."""
        return self.hint_hits / self.hinted if self.hinted else 0.0

    @property
    def hint_recall(self) -> float:
        """Share of the misses that were prefetched; 0 where nothing was missed."""
        return self.hint_hits / self.misses if self.misses else 0.0

    @property
    def late_share(self) -> float:
        """Late uses as a share of hits and misses; 0 where nothing was chosen."""
        return swapped_share(self.late, self.hits, self.misses)

    @property
    def coarse_share(self) -> float:
        """Coarse uses as a share of hits and misses; 0 where nothing was chosen."""
        return swapped_share(self.coarse, self.hits, self.misses)

    @property
    def whole_bytes(self) -> int:
        """Bytes of `bytes_read` that were whole experts."""
        return self.bytes_read - self.coarse_bytes - self.rest_bytes

    @property
    def disk_bytes(self) -> int:
        """All bytes the readers were asked for: for misses, and for wrong guesses."""
        return self.bytes_read + self.wasted_bytes

    def as_dict(self) -> dict[str, Any]:
        """Returns every counter and the shares of them, under the names that scripts read."""
        shares = ("hit_rate", "swapped_share", "hint_precision", "hint_recall", "late_share", "coarse_share")
        return {name: getattr(self, name) for name in (*NAMES, *shares)}

    def __add__(self, other: PhaseTotals) -> PhaseTotals:
        return PhaseTotals(*(getattr(self, name) + getattr(other, name) for name in NAMES))

    def __sub__(self, other: PhaseTotals) -> PhaseTotals:
        return PhaseTotals(*(getattr(self, name) - getattr(other, name) for name in NAMES))


@dataclass(frozen=True, slots=True)
class Logged:
    """How a total is logged: the name of its field in an event row, and how many of that make one."""

    total: str
    event_field: str
    per: int = 1


NAMES = tuple(one.name for one in fields(PhaseTotals))
#: The totals that the integers of an event row hold, in the row's order.
LOGGED = tuple(
    Logged(one.name, one.metadata.get("event_field", one.name), one.metadata.get("per", 1))
    for one in fields(PhaseTotals)
    if one.metadata.get("event_field", one.name) is not None
)
