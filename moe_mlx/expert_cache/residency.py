"""Which expert of a layer sits in which slot: one table per layer, pure Python, no arrays of any framework.

The table's numbers live in `array.array`s so that the in-graph primitive works on the very same memory: there is one
owner of the state, whoever runs the step.

A table may have low slots beside its whole ones: each has room for an expert's high bits alone. They are numbered
after the whole slots, so that an expert is in one slot of one kind, or in none. An expert that must be whole and sits
in a low slot is *promoted*: what it has is lifted into a whole slot, the rest is read. The expert that gives way there
is *demoted*: its high bits go to a low slot, without a read.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from moe_mlx.errors import SlotsBusyError
from moe_mlx.expert_cache.table_state import TableState
from moe_mlx.expert_cache.use_counts import UseCounts

#: A clock no event reaches: such a slot is never a victim.
QUARANTINED = 1 << 62

#: What of an expert is read: all of it, its high bits with scales and biases, or the low bits of one that has those.
WHOLE, COARSE, REST = 0, 1, 2
#: How an error begins that ended the read of one.
PART_WORDS = ("", "coarse part: ", "rest part: ")


@dataclass(frozen=True, slots=True)
class Placement:
    """One expert that has to be read: its slot holds nothing until `ResidencyTable.commit`.

    Attributes:
        expert: Its number.
        slot: Where it goes.
        part: What is read of it: `WHOLE`, `COARSE` or `REST`.
    """

    expert: int
    slot: int
    part: int = WHOLE


class Mover(Protocol):
    """Moves experts between whole and low slots, in memory."""

    def demote(self, slot: int, low: int) -> None:
        """Writes the high bits of a whole slot to a low one."""

    def lift(self, low: int, slot: int) -> None:
        """Writes a low slot to a whole one, where its low bits are still to come."""

    def swap(self, slot: int, low: int) -> None:
        """Does both at once."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What one event (a token at decode, a wave of a prompt) does to a layer.

    Attributes:
        hits: Experts that were resident before the event, as whole as they had to be.
        misses: Experts to be read, with the slot each goes to, in the order of `begin`'s argument.
        evicted: Experts that lost their slot.
    """

    hits: tuple[int, ...]
    misses: tuple[Placement, ...]
    evicted: tuple[int, ...]


class Eviction(Protocol):
    """Chooses victims. Hears of every touch, and of no eviction but its own; a subclass keeps nothing by default."""

    name: str
    #: Whether it wants the router's scores of every decode step.
    uses_scores: bool = False

    def observe(self, table: ResidencyTable, scores: Sequence[float]) -> None:
        """Takes the router's scores of the decode step to come, before its event: `[E]` or more, as float32 gives them.

        Called only where `uses_scores` is true and the router is known.
        """
        return None

    def touch(self, table: ResidencyTable, expert: int) -> None:
        """Notes that `expert` was chosen in the running event."""
        return None

    def end_event(self, table: ResidencyTable) -> None:
        """Notes that one token (or one prompt chunk) has been seen by this layer."""
        return None

    def worth(self, table: ResidencyTable, expert: int, stamp: int) -> tuple[float, int]:
        """Returns what keeping an expert that was touched last at `stamp` is worth beside another; the least goes."""
        return 0.0, stamp

    def victim(self, table: ResidencyTable, since: int, protect: Collection[int]) -> int:
        """Returns the whole slot to empty: none touched after clock `since`, none in `protect`; -1 if there is none."""

    def low_victim(self, table: ResidencyTable, since: int, protect: Collection[int]) -> int:
        """Returns the low slot to empty, likewise; empty ones first."""
        best, best_worth = -1, (0.0, 0)
        for slot in range(table.slots, table.slots + table.low):
            stamp, owner = table.used[slot], table.owner[slot]
            if stamp > since or slot in protect:
                continue
            worth = self.worth(table, owner, stamp) if owner >= 0 else (-math.inf, stamp)
            if best < 0 or worth < best_worth:
                best, best_worth = slot, worth
        return best


class ResidencyTable(UseCounts):
    """Slots and clocks of one MoE layer, and the counts of its experts.

    An event is `begin`, the reads, then `commit` for each read that arrived whole or `forget` for each that did not.
    Between them a slot that is being filled belongs to nobody, so it can never be served half-filled.

    Attributes:
        slot_of: int32 `[E]`, the slot of each expert, -1 where absent.
        owner: int32 `[S + L]`, the expert in each slot, -1 where empty.
        used: int64 `[S + L]`, clock of the slot's last touch, 0 where empty.
        slots: S, the whole slots.
        low: L, the low slots, which are numbered after them.
        mover: What moves experts between the two kinds; there where there are low slots.
        pinned: int32 `[E]`, 1 for an expert that keeps its slot once it has one, else 0.
        heat: float64 `[E]`, what the eviction keeps of each expert; LRU keeps nothing.
        state: Single numbers; see `TableState`.
    """

    #: Type codes of the arrays, as `array` and `struct` have them.
    ARRAYS: ClassVar[dict[str, str]] = {
        "slot_of": "i",
        "owner": "i",
        "used": "q",
        "pinned": "i",
        "heat": "d",
        **dict.fromkeys(UseCounts.COUNTS, "q"),
    }

    def __init__(self, experts: int, slots: int, eviction: Eviction, low: int = 0) -> None:
        if not 0 < slots <= slots + low <= experts:
            raise ValueError(f"{slots + low} slots for {experts} experts")
        super().__init__(experts, TableState(gain=1.0))
        self.slots, self.low, self.eviction = slots, low, eviction
        self.mover: Mover | None = None
        self.slot_of = array("i", [-1]) * experts
        self.owner = array("i", [-1]) * (slots + low)
        self.used = array("q", [0]) * (slots + low)
        self.pinned = array("i", [0]) * experts
        self.heat = array("d", [0.0]) * experts
        #: Set from the first change of an event to its last read: what an exception in between leaves to be done.
        self.unfinished: Callable[[], None] | None = None

    @property
    def clock(self) -> int:
        """The stamp of the latest touch."""
        return self.state.clock

    @property
    def free(self) -> int:
        """Whole slots that no pinned expert has, or will have."""
        return self.slots - self.state.pins

    def pin(self, experts: Collection[int]) -> None:
        """Lets these and no others keep their slots for good, once they have them.

        Args:
            experts: At most so many that `free` is no less than a token needs; there must be no low slots.
        """
        for expert in range(self.experts):
            self.pinned[expert] = expert in experts
        self.state.pins = sum(self.pinned)

    def _held(self, protect: Collection[int]) -> Collection[int]:
        """Returns `protect` and the slots of pinned experts."""
        if not self.state.pins:
            return protect
        return {*protect, *(slot for slot, expert in enumerate(self.owner) if expert >= 0 and self.pinned[expert])}

    @property
    def resident(self) -> list[int]:
        """Experts in memory, whole or not, by slot."""
        return [expert for expert in self.owner if expert >= 0]

    def whole(self, expert: int) -> bool:
        """Whether an expert is resident as it is in the model."""
        return 0 <= self.slot_of[expert] < self.slots

    def begin(self, chosen: Sequence[int], protect: Collection[int] = (), coarse: Collection[int] = ()) -> Admission:
        """Touches what is resident and clears a slot for each expert that is not, or not as whole as it must be.

        Hits and misses are judged against one snapshot, taken before anything moves; an expert of this event is
        never its victim. With low slots, what gives way to a whole expert is demoted at once, unless what would give
        way to it there is worth more; no queued work may read a slot then.

        Args:
            chosen: Distinct experts in touch order: the first is the oldest of this event.
            protect: Slots that must not be emptied, for instance those that queued work still reads.
            coarse: Those of them whose high bits do.

        Raises:
            SlotsBusyError: more experts than slots that may be emptied.
        """
        self.mend()
        self.unfinished = self._drop_halves
        since = self.state.clock
        hits: list[int] = []
        absent: list[tuple[int, int]] = []
        for place, expert in enumerate(chosen, start=1):
            self.eviction.touch(self, expert)
            slot = self.slot_of[expert]
            if slot >= 0:
                self.used[slot] = since + place
            if 0 <= slot < self.slots or (slot >= 0 and expert in coarse):
                hits.append(expert)
            else:
                absent.append((expert, since + place))
        self.state.clock = since + len(chosen)
        misses: list[Placement] = []
        evicted: list[int] = []
        if absent:
            protect = self._held(protect)
        for expert, stamp in absent:
            light = expert in coarse
            slot = (self.eviction.low_victim if light else self.eviction.victim)(self, since, protect)
            if slot < 0:
                for placed in misses:
                    self.forget(placed.slot)
                self.unfinished = None
                raise SlotsBusyError(
                    f"{len(chosen)} experts need slots, and only {len(self.owner)} are there, some of them held by "
                    "queued work or a read that stalled: wait for the disk, or raise --expert-cache"
                )
            part = COARSE if light else WHOLE
            if self.low and not light:
                part = self._make_room(slot, expert, since, protect, evicted)
            elif (loser := self.owner[slot]) >= 0:
                self._vacate(slot)
                evicted.append(loser)
            self.used[slot] = stamp
            misses.append(Placement(expert, slot, part))
        self.eviction.end_event(self)
        self.unfinished = None
        return Admission(tuple(hits), tuple(misses), tuple(evicted))

    def _vacate(self, slot: int) -> int:
        """Takes an expert out of its slot and returns the slot's clock."""
        if (expert := self.owner[slot]) >= 0:
            self.slot_of[expert] = -1
        self.owner[slot] = -1
        return self.used[slot]

    def _make_room(self, slot: int, expert: int, since: int, protect: Collection[int], evicted: list[int]) -> int:
        """Empties a whole slot for an expert and lifts what there is of it; returns what is to be read.

        Who gives way goes to the low slot that the expert leaves, or that is worth least.
        """
        loser, origin = self.owner[slot], self.slot_of[expert]
        target, stamp = origin, self._vacate(slot)
        if origin >= 0:
            self._vacate(origin)
            self.used[origin] = 0
            assert self.mover is not None
            if loser >= 0:
                self.mover.swap(slot, origin)
            else:
                self.mover.lift(origin, slot)
        elif loser >= 0 and (target := self._low_slot_for(loser, stamp, since, protect)) >= 0:
            if (dropped := self.owner[target]) >= 0:
                evicted.append(dropped)
            self._vacate(target)
            assert self.mover is not None
            self.mover.demote(slot, target)
        if loser >= 0 and target >= 0:
            self.used[target] = stamp
            self.commit(Placement(loser, target))
        elif loser >= 0:
            evicted.append(loser)
        return WHOLE if origin < 0 else REST

    def _low_slot_for(self, expert: int, stamp: int, since: int, protect: Collection[int]) -> int:
        """Returns the low slot that an expert touched last at `stamp` may take; -1 where all are worth more."""
        low = self.eviction.low_victim(self, since, protect)
        if low < 0 or self.owner[low] < 0:
            return low
        worth = self.eviction.worth
        return low if worth(self, self.owner[low], self.used[low]) < worth(self, expert, stamp) else -1

    def mend(self) -> None:
        """Puts right what an event left that an exception broke off anywhere, Ctrl-C included."""
        if (finish := self.unfinished) is not None:
            finish()
            self._drop_halves()
            self.unfinished = None

    def _drop_halves(self) -> None:
        for slot, expert in enumerate(self.owner):
            if expert >= 0 and self.slot_of[expert] != slot:
                self.owner[slot], self.used[slot] = -1, 0
        for expert, slot in enumerate(self.slot_of):
            if slot >= 0 and self.owner[slot] != expert:
                self.slot_of[expert] = -1

    def commit(self, placement: Placement) -> None:
        """Makes a slot valid: its expert has been read whole."""
        self.owner[placement.slot] = placement.expert
        self.slot_of[placement.expert] = placement.slot

    def forget(self, slot: int) -> None:
        """Leaves a slot empty: its read failed, was cancelled, or its bytes are no longer trusted."""
        self._vacate(slot)
        self.used[slot] = 0

    def quarantine(self, slot: int) -> None:
        """Takes a slot out of use: a stalled read may still write to it. `forget` gives it back."""
        self.forget(slot)
        self.used[slot] = QUARANTINED

    def resized(self, slots: int, eviction: Eviction | None = None, low: int = 0) -> ResidencyTable:
        """Returns an empty table with other slots, in which clocks, heats, pins, the running range and counts go on."""
        table = ResidencyTable(self.experts, slots, eviction or self.eviction, low)
        table.state = TableState.from_buffer_copy(self.state)
        table.heat[:] = self.heat
        table.pinned[:] = self.pinned
        table.take_counts(self)
        return table

    def observe_range(self, span: float) -> float:
        """Adds one token's logit range and returns the running mean, this token included."""
        self.state.range_sum += span
        self.state.range_tokens += 1
        return self.state.range_sum / self.state.range_tokens

    def touch(self, experts: Iterable[int]) -> None:
        """Renews the clocks of resident experts, the first becoming the oldest, without an event of their own."""
        for expert in experts:
            slot = self.slot_of[expert]
            if slot >= 0:
                self.state.clock += 1
                self.used[slot] = self.state.clock

    def hottest(self) -> list[int]:
        """Resident experts, most worth keeping first: pinned ones, then by latest use; whole ones before others."""

        def rank(slot: int) -> tuple[bool, bool, int]:
            return slot >= self.slots, not self.pinned[self.owner[slot]], -self.used[slot]

        slots = [slot for slot in range(len(self.owner)) if self.owner[slot] >= 0]
        return [self.owner[slot] for slot in sorted(slots, key=rank)]

    def reset(self) -> None:
        """Empties residency, clocks, heats, running range and counts, in place; a stalled read keeps its slot."""
        self.mend()
        self.reset_counts()
        for field in (self.slot_of, self.owner):
            for place in range(len(field)):
                field[place] = -1
        for slot in range(len(self.used)):
            self.used[slot] = QUARANTINED if self.used[slot] == QUARANTINED else 0
        for expert in range(self.experts):
            self.heat[expert] = 0.0
        self.state.clock = 0
        self.state.gain = 1.0
        self.state.score_range = 0.0
        self.reset_range()

    def reset_range(self) -> None:
        """Empties the running range."""
        self.state.range_tokens = 0
        self.state.range_sum = 0.0

    def check(self) -> None:
        """Raises AssertionError unless slot and expert are a bijection on what is resident."""
        for slot, expert in enumerate(self.owner):
            assert expert < 0 or self.slot_of[expert] == slot, f"slot {slot} says {expert}"
        for expert, slot in enumerate(self.slot_of):
            assert slot < 0 or self.owner[slot] == expert, f"expert {expert} says {slot}"
