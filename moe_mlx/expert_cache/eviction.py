"""Which slot gives way when an expert must come in. Two policies; ties go to the lower slot.

Judged on recorded traces with Belady beside them (`moe-mlx simulate`); see `DEFAULT_EVICTION` for the choice.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection

from moe_mlx.expert_cache.residency import Eviction, ResidencyTable
from moe_mlx.system.given import check_choice

#: Touches after which one touch counts half as much (aged LFU), in tokens of one layer.
LFU_HALF_LIFE = 128
#: Above this the heats are scaled down together, long before a double overflows.
_HEAT_CEILING = 1e100


def _least_recent(used: array[int], since: int, protect: Collection[int]) -> int:
    if not protect:
        oldest = min(used)
        return used.index(oldest) if oldest <= since else -1
    free = [slot for slot in range(len(used)) if used[slot] <= since and slot not in protect]
    return min(free, key=used.__getitem__, default=-1)


class LeastRecentlyUsed:
    """Empties the slot whose expert was touched longest ago; an empty slot was never touched and goes first."""

    name = "lru"

    def touch(self, table: ResidencyTable, expert: int) -> None:
        """LRU keeps no state beyond the table's clocks."""

    def end_event(self, table: ResidencyTable) -> None:
        """LRU keeps no state beyond the table's clocks."""

    def victim(self, table: ResidencyTable, since: int, protect: Collection[int]) -> int:
        """See `Eviction.victim`."""
        return _least_recent(table.used, since, protect)


class AgedLeastFrequentlyUsed:
    """Empties the slot of the least used expert, old uses counting less (half after `LFU_HALF_LIFE` events).

    Instead of decaying every heat at each event, the gain of a touch grows; both are scaled down now and then.
    """

    name = "lfu"

    def __init__(self, half_life: float = LFU_HALF_LIFE) -> None:
        self.growth = 2.0 ** (1.0 / half_life)

    def touch(self, table: ResidencyTable, expert: int) -> None:
        """Adds the running gain to the expert's heat."""
        table.heat[expert] += table.state.gain

    def end_event(self, table: ResidencyTable) -> None:
        """Lets the gain grow, which ages every earlier touch."""
        gain = table.state.gain * self.growth
        if gain > _HEAT_CEILING:
            for expert in range(table.experts):
                table.heat[expert] /= gain
            gain = 1.0
        table.state.gain = gain

    def victim(self, table: ResidencyTable, since: int, protect: Collection[int]) -> int:
        """See `Eviction.victim`; equal heats fall back to the least recent."""
        best, best_key = -1, (0.0, 0)
        for slot, stamp in enumerate(table.used):
            if stamp > since or slot in protect:
                continue
            owner = table.owner[slot]
            key = (table.heat[owner], stamp) if owner >= 0 else (-1.0, stamp)
            if best < 0 or key < best_key:
                best, best_key = slot, key
        return best


EVICTIONS: dict[str, type[LeastRecentlyUsed] | type[AgedLeastFrequentlyUsed]] = {
    "lru": LeastRecentlyUsed,
    "lfu": AgedLeastFrequentlyUsed,
}
DEFAULT_EVICTION = "lru"


def make_eviction(name: str) -> Eviction:
    """Returns the eviction policy called `name` ("lru" or "lfu").

    Raises:
        UsageError: for any other name.
    """
    check_choice("eviction", name, tuple(EVICTIONS))
    return EVICTIONS[name]()
