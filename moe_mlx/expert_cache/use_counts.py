"""How often, and how long ago, each expert of a layer was used: counts that decide nothing.

The history is made of them, and so are the curves that slots are shared by.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import ClassVar

from moe_mlx.expert_cache.table_state import TableState


class UseCounts:
    """Counts of one layer, of 64-bit integers, in memory that the primitive works on too.

    Attributes:
        experts: E.
        state: Holds the latest stamp.
        uses: `[E]`, decode steps that used the expert.
        reads: `[E]`, decode steps that had to read it for that.
        rows: `[E]`, rows of prompts (of every call that is no decode step) that used it.
        last: `[E]`, stamp of its last use, whether or not it has a slot; 0 before the first.
        distances: `[E + 1]`: decode uses by how many other experts came between the use and the one before it; the last
            entry counts first uses. With S slots under LRU, entries from S on are misses.
        lates: `[E]`, decode steps whose output the expert joined a layer later.
    """

    COUNTS: ClassVar[tuple[str, ...]] = ("uses", "reads", "rows", "last", "distances", "lates")

    def __init__(self, experts: int, state: TableState) -> None:
        self.experts, self.state = experts, state
        self.uses = array("q", [0]) * experts
        self.reads = array("q", [0]) * experts
        self.rows = array("q", [0]) * experts
        self.last = array("q", [0]) * experts
        self.distances = array("q", [0]) * (experts + 1)
        self.lates = array("q", [0]) * experts

    def count(self, chosen: Sequence[int], missed: Iterable[int], late: Iterable[int] = ()) -> None:
        """Counts one decode step that went through.

        Args:
            chosen: Its distinct experts in touch order.
            missed: Those it had to read.
            late: Those of them that a later layer waited for.
        """
        ranked = sorted(self.last)
        for expert in chosen:
            self.uses[expert] += 1
            before = self.last[expert]
            self.distances[self.experts - bisect_right(ranked, before) if before else self.experts] += 1
        self.stamp(chosen)
        for expert in missed:
            self.reads[expert] += 1
        for expert in late:
            self.lates[expert] += 1

    def stamp(self, experts: Iterable[int]) -> None:
        """Notes a use of experts that `distances` are measured from, the first becoming the oldest."""
        for expert in experts:
            self.state.stamp += 1
            self.last[expert] = self.state.stamp

    def take_counts(self, other: UseCounts) -> None:
        """Goes on counting where the counts of the same layer left off."""
        for name in self.COUNTS:
            getattr(self, name)[:] = getattr(other, name)
        self.state.stamp = other.state.stamp

    def reset_counts(self) -> None:
        """Empties the counts, in place."""
        for name in self.COUNTS:
            field: array[int] = getattr(self, name)
            for place in range(len(field)):
                field[place] = 0
        self.state.stamp = 0
