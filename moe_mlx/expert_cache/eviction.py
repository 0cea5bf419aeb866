"""Which slot gives way when an expert must come in. Three policies; ties go to the lower slot.

Judged on recorded traces with Belady beside them (`moe-mlx simulate`); see `DEFAULT_EVICTION` for the choice.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Collection, Sequence

from moe_mlx.expert_cache.residency import Eviction, ResidencyTable
from moe_mlx.system.given import check_choice

#: Touches after which one touch counts half as much (aged LFU), in tokens of one layer.
LFU_HALF_LIFE = 128
#: Above this the heats are scaled down together, long before a double overflows.
_HEAT_CEILING = 1e100
#: How much of an expert's mean score is kept at each token, and what being chosen is worth, in ranges of a token's
#: scores: the best of a sweep over traces of two trained models (docs/measurements.md).
ROUTER_KEEP = 0.75
ROUTER_BONUS = 0.5


def _coldest(table: ResidencyTable, since: int, protect: Collection[int]) -> int:
    """Returns the slot of the least heat, the least recent of equals; empty slots come first."""
    best, best_key = -1, (0.0, 0)
    for slot in range(table.slots):
        stamp, owner = table.used[slot], table.owner[slot]
        if stamp > since or slot in protect:
            continue
        key = (table.heat[owner], stamp) if owner >= 0 else (-math.inf, stamp)
        if best < 0 or key < best_key:
            best, best_key = slot, key
    return best


def _least_recent(used: array[int], since: int, protect: Collection[int]) -> int:
    if not protect:
        oldest = min(used)
        return used.index(oldest) if oldest <= since else -1
    free = [slot for slot in range(len(used)) if used[slot] <= since and slot not in protect]
    return min(free, key=used.__getitem__, default=-1)


class LeastRecentlyUsed(Eviction):
    """Empties the slot whose expert was touched longest ago; an empty slot was never touched and goes first."""

    name = "lru"

    def victim(self, table: ResidencyTable, since: int, protect: Collection[int]) -> int:
        """See `Eviction.victim`."""
        return _least_recent(table.used[: table.slots] if table.low else table.used, since, protect)


class AgedLeastFrequentlyUsed(Eviction):
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

    def worth(self, table: ResidencyTable, expert: int, stamp: int) -> tuple[float, int]:
        """See `Eviction.worth`."""
        return table.heat[expert], stamp

    def victim(self, table: ResidencyTable, since: int, protect: Collection[int]) -> int:
        """See `Eviction.victim`; equal heats fall back to the least recent."""
        return _coldest(table, since, protect)


class RouterMean(Eviction):
    """Empties the slot of the expert that the router has thought least of lately.

    The router's scores say something of every expert at every token, also of those that were not chosen. An expert's
    heat is the running mean of its score, plus a share of the scores' range whenever it was chosen. A constant added to
    all scores of a token changes no order, so logits serve as they are. Without scores (a prompt, warm-up, a router
    that is not known) heats stand still, and equal heats fall back to the least recent.
    """

    name = "router"
    uses_scores = True

    def __init__(self, keep: float = ROUTER_KEEP, bonus: float = ROUTER_BONUS) -> None:
        self.keep, self.gain = keep, (1.0 - keep) * bonus
        self.share = 1.0 - keep

    def observe(self, table: ResidencyTable, scores: Sequence[float]) -> None:
        """Moves every expert's heat towards its score; one that is not finite counts as the lowest that is."""
        finite = [score for score in scores if math.isfinite(score)]
        if not finite:
            return
        lowest, heat = min(finite), table.heat
        for expert in range(table.experts):
            score = scores[expert]
            heat[expert] = self.keep * heat[expert] + self.share * (score if math.isfinite(score) else lowest)
        table.state.score_range = max(finite) - lowest

    def touch(self, table: ResidencyTable, expert: int) -> None:
        """Adds what being chosen is worth in this event."""
        table.heat[expert] += self.gain * table.state.score_range

    def end_event(self, table: ResidencyTable) -> None:
        """The range was this event's own."""
        table.state.score_range = 0.0

    def worth(self, table: ResidencyTable, expert: int, stamp: int) -> tuple[float, int]:
        """See `Eviction.worth`."""
        return table.heat[expert], stamp

    def victim(self, table: ResidencyTable, since: int, protect: Collection[int]) -> int:
        """See `Eviction.victim`."""
        return _coldest(table, since, protect)


EVICTIONS: dict[str, Callable[[], Eviction]] = {
    "lru": LeastRecentlyUsed,
    "lfu": AgedLeastFrequentlyUsed,
    "router": RouterMean,
}
DEFAULT_EVICTION = "lru"


def make_eviction(name: str) -> Eviction:
    """Returns the eviction policy called `name` ("lru", "lfu" or "router").

    Raises:
        UsageError: for any other name.
    """
    check_choice("eviction", name, tuple(EVICTIONS))
    return EVICTIONS[name]()
