"""Sums over the steps of a phase: what every figure that is shown is made of."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class PhaseTotals:
    """Sums over the steps of one phase.

    Attributes:
        steps: Model calls.
        tokens: Rows that went through the model (discarded look-ahead steps included).
        hits: Chosen experts that were resident; in a prompt an expert counts once per layer and chunk.
        misses: Chosen experts that had to be read.
        swapped: Chosen experts that exact routing would not have chosen.
        bytes_read: Bytes read for misses, on demand or ahead.
        wait_seconds: Seconds the step stood still for reads.
        read_backs: Times the routing of a layer was read back to Python.
        weight_moved: Sum of the exact router weights of the experts that were displaced.
        choices: Chosen experts counted token by token (`tokens * top_k` over layers).
        waits: Times the model's device had to wait for the host's choice of a layer: one per layer under a cap.
        host_seconds: Seconds the host took to choose and look up (and to guess, with prefetch), reads not counted.
        hinted: Experts whose read ahead was begun.
        hint_hits: Misses that were served by one; they are misses all the same, and in `bytes_read`.
        wasted_bytes: Bytes read ahead that no step used; beside `bytes_read`.
    """

    steps: int = 0
    tokens: int = 0
    hits: int = 0
    misses: int = 0
    swapped: int = 0
    bytes_read: int = 0
    wait_seconds: float = 0.0
    read_backs: int = 0
    weight_moved: float = 0.0
    choices: int = 0
    waits: int = 0
    host_seconds: float = 0.0
    hinted: int = 0
    hint_hits: int = 0
    wasted_bytes: int = 0

    @property
    def hit_rate(self) -> float:
        """Hits as a share of hits and misses; 0 where nothing was chosen."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 0.0

    @property
    def miss_rate(self) -> float:
        """Misses as a share of hits and misses; 0 where nothing was chosen."""
        return self.misses / (self.hits + self.misses) if self.hits + self.misses else 0.0

    @property
    def swapped_share(self) -> float:
        """Swapped as a share of hits and misses; 0 where nothing was chosen."""
        return self.swapped / (self.hits + self.misses) if self.hits + self.misses else 0.0

    @property
    def hint_precision(self) -> float:
        """Share of the experts read ahead that a step used; 0 where none was."""
        return self.hint_hits / self.hinted if self.hinted else 0.0

    @property
    def hint_recall(self) -> float:
        """Share of the misses that were read ahead; 0 where nothing was missed."""
        return self.hint_hits / self.misses if self.misses else 0.0

    @property
    def disk_bytes(self) -> int:
        """All bytes the readers were asked for: for misses, and ahead for nothing."""
        return self.bytes_read + self.wasted_bytes

    def __add__(self, other: PhaseTotals) -> PhaseTotals:
        return PhaseTotals(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: PhaseTotals) -> PhaseTotals:
        return PhaseTotals(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))
