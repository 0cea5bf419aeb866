"""Evictions that others published, for `simulate` only: what the runtime's own are judged beside.

S3-FIFO (Yang et al., SOSP 2023) keeps newcomers in a small queue of their own; a mix of recency and frequency stands
for what FlashMoE (arXiv 2601.17063) learns; `lfu:H` is the aged LFU at another half-life. Least-stale (SpecMD, arXiv
2602.03921) is LRU within a layer, and so has no entry of its own.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence

from moe_mlx.errors import UsageError
from moe_mlx.expert_cache.eviction import EVICTIONS, AgedLeastFrequentlyUsed, LeastRecentlyUsed, make_eviction
from moe_mlx.expert_cache.residency import Eviction, ResidencyTable

#: Share of the slots that newcomers have, and how many touches an expert is credited with at most (S3-FIFO's own).
SMALL_SHARE, MOST_CREDIT = 0.1, 3
#: Tokens after which a use counts half, and by what an absence of one token lowers the product.
MIX_HALF_LIFE, MIX_RATE = 32.0, 0.05


class S3Fifo(Eviction):
    """Three queues: newcomers, those that were used again, and the names of newcomers that left (ghosts)."""

    name = "s3-fifo"

    def __init__(self) -> None:
        self.small: OrderedDict[int, int] = OrderedDict()  # expert -> credit
        self.main: OrderedDict[int, int] = OrderedDict()
        self.ghost: OrderedDict[int, None] = OrderedDict()

    def touch(self, table: ResidencyTable, expert: int) -> None:
        """Credits a resident; a newcomer goes to the small queue, or to the main one if it left lately."""
        for queue in (self.small, self.main):
            if expert in queue:
                queue[expert] = min(queue[expert] + 1, MOST_CREDIT)
                return
        if expert in self.ghost:
            del self.ghost[expert]
            self.main[expert] = 0
        else:
            self.small[expert] = 0

    def victim(self, table: ResidencyTable, since: int, protect: Collection[int]) -> int:
        """See `Eviction.victim`."""
        for slot, owner in enumerate(table.owner):
            if owner < 0 and table.used[slot] <= since and slot not in protect:
                return slot

        def first(queue: OrderedDict[int, int]) -> int | None:
            """Returns the oldest of a queue that may go: resident, and not of this very event."""
            for expert in queue:
                slot = table.slot_of[expert]
                if slot >= 0 and table.used[slot] <= since and slot not in protect:
                    return expert
            return None

        small_target = max(1, int(table.slots * SMALL_SHARE))
        while True:
            newcomer, old = first(self.small), first(self.main)
            if newcomer is not None and (len(self.small) > small_target or old is None):
                if self.small.pop(newcomer) == 0:
                    self._remember(newcomer, table.slots)
                    return table.slot_of[newcomer]
                self.main[newcomer] = 0
            elif old is not None:
                if (credit := self.main.pop(old)) == 0:
                    return table.slot_of[old]
                self.main[old] = credit - 1
            else:
                return -1

    def _remember(self, expert: int, most: int) -> None:
        self.ghost[expert] = None
        while len(self.ghost) > most:
            self.ghost.popitem(last=False)


class RecencyFrequency(Eviction):
    """Empties the slot of the lowest aged frequency times recency."""

    name = "mix"

    def __init__(self) -> None:
        self.events = 0
        self.aged: dict[int, tuple[float, int]] = {}  # expert -> uses, as they counted at its last one

    def touch(self, table: ResidencyTable, expert: int) -> None:
        """Counts a use, older ones less."""
        uses, at = self.aged.get(expert, (0.0, self.events))
        self.aged[expert] = (uses * 0.5 ** ((self.events - at) / MIX_HALF_LIFE) + 1.0, self.events)

    def end_event(self, table: ResidencyTable) -> None:
        """One token has passed."""
        self.events += 1

    def victim(self, table: ResidencyTable, since: int, protect: Collection[int]) -> int:
        """See `Eviction.victim`."""
        worth = {
            slot: self._worth(table.owner[slot]) if table.owner[slot] >= 0 else -1.0
            for slot in range(table.slots)
            if table.used[slot] <= since and slot not in protect
        }
        return min(worth, key=lambda slot: (worth[slot], table.used[slot]), default=-1)

    def _worth(self, expert: int) -> float:
        uses, at = self.aged.get(expert, (0.0, 0))
        absent = self.events - at
        return uses * 0.5 ** (absent / MIX_HALF_LIFE) * math.exp(-MIX_RATE * absent)


class HottestPinned(LeastRecentlyUsed):
    """LRU beside pinned experts, those that the trace itself uses most.

    Who is pinned is known beforehand from the very text that is replayed: no profile can name them better by use, so
    where this loses to LRU, pinning the hottest of earlier runs does too.
    """

    name = "pin"

    def __init__(self, pins: int) -> None:
        self.count = pins

    def pin(self, table: ResidencyTable, uses: Sequence[int], top_k: int) -> None:
        """Pins in a table: `uses` of each expert of a layer, ties to the lower number.

        Raises:
            UsageError: pins and one token's experts need more slots than there are.
        """
        if self.count + top_k > table.slots:
            raise UsageError(
                f"--evict pin:{self.count} needs {self.count} + {top_k} (top-k) slots a layer, and there are "
                f"{table.slots}: pin fewer, or raise --expert-cache"
            )
        table.pin(sorted(range(len(uses)), key=lambda expert: (-uses[expert], expert))[: self.count])


CONTENDERS: dict[str, type[S3Fifo] | type[RecencyFrequency]] = {"s3-fifo": S3Fifo, "mix": RecencyFrequency}
NAMES = (*EVICTIONS, *CONTENDERS, "lfu:H", "pin:N")


def make_any(name: str) -> Eviction:
    """Returns the runtime's or a contender called `name`: "lfu:16" has that half-life, "pin:4" pins four experts.

    Raises:
        UsageError: there is none of that name.
    """
    if name in CONTENDERS:
        return CONTENDERS[name]()
    kind, _, number = name.partition(":")
    if kind == "lfu" and number:
        try:
            tokens = float(number)
        except ValueError:
            tokens = math.nan
        if not 0 < tokens < math.inf:
            raise UsageError(f"--evict {name}: give the half-life in tokens, such as lfu:16")
        return AgedLeastFrequentlyUsed(tokens)
    if kind == "pin":
        if not number.isdecimal() or int(number) < 1:
            raise UsageError(f"--evict {name}: give how many experts of a layer are pinned, such as pin:4")
        return HottestPinned(int(number))
    if name not in EVICTIONS:
        raise UsageError(f"unknown eviction {name!r}: choose among {', '.join(NAMES)}")
    return make_eviction(name)
