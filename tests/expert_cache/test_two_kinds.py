"""A table with whole and low slots: whatever happens, an expert is in one slot of one kind, with that kind's bits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_mlx.errors import SlotsBusyError
from moe_mlx.expert_cache.eviction import EVICTIONS, make_eviction
from moe_mlx.expert_cache.residency import COARSE, REST, WHOLE, Placement, ResidencyTable

EXPERTS = 12


class Contents:
    """What lies in each slot, for a mover and reads that only write it down."""

    def __init__(self, table: ResidencyTable) -> None:
        self.table, self.of = table, [("nothing", -1)] * (table.slots + table.low)
        table.mover = self

    def demote(self, slot: int, low: int) -> None:
        kind, expert = self.of[slot]
        assert kind == "whole" and slot < self.table.slots <= low
        self.of[low] = ("high", expert)

    def lift(self, low: int, slot: int) -> None:
        kind, expert = self.of[low]
        assert kind == "high" and slot < self.table.slots <= low
        self.of[slot] = ("lifted", expert)

    def swap(self, slot: int, low: int) -> None:
        going = self.of[slot]
        self.lift(low, slot)
        assert going[0] == "whole"
        self.of[low] = ("high", going[1])

    def read(self, placement: Placement) -> None:
        before = self.of[placement.slot]
        if placement.part == REST:
            assert before == ("lifted", placement.expert), "the rest of an expert without its high bits"
        kind = "high" if placement.part == COARSE else "whole"
        assert (placement.slot >= self.table.slots) == (kind == "high")
        self.of[placement.slot] = (kind, placement.expert)

    def check(self) -> None:
        self.table.check()
        for slot, expert in enumerate(self.table.owner):
            if expert >= 0:
                assert self.of[slot] == ("whole" if slot < self.table.slots else "high", expert)


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, list[tuple[Any, ...]]]:
    slots = draw(st.integers(1, EXPERTS - 1))
    low = draw(st.integers(1, EXPERTS - slots))
    event = st.tuples(
        st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=slots, unique=True),
        st.integers(0, low),  # how many of them may be coarse, from the last
        st.sets(st.integers(0, EXPERTS - 1), max_size=2),  # experts whose read fails
        st.sets(st.integers(0, slots - 1), max_size=1),  # slots that queued work reads
    )
    return slots, low, draw(st.lists(event, max_size=30))


@settings(max_examples=200, deadline=None)
@given(histories(), st.sampled_from(list(EVICTIONS)), st.data())
def test_any_history_leaves_each_expert_in_one_kind(history: Any, evict: str, data: st.DataObject):
    slots, low, events = history
    table = ResidencyTable(EXPERTS, slots, make_eviction(evict), low)
    contents = Contents(table)
    for chosen, light, failing, protect in events:
        coarse = {expert for expert in chosen[1:][-light:] if not table.whole(expert)} if light else set()
        before = {expert: table.slot_of[expert] for expert in table.resident}
        if table.eviction.uses_scores:
            table.eviction.observe(table, data.draw(st.lists(st.floats(-3, 3), min_size=EXPERTS, max_size=EXPERTS)))
        try:
            admission = table.begin(chosen, protect, coarse)
        except SlotsBusyError:
            assert protect, "every event fits"
            contents.check()
            continue
        hits = {e for e in chosen if e in before and (before[e] < slots or e in coarse)}
        assert set(admission.hits) == hits
        assert [p.expert for p in admission.misses] == [e for e in chosen if e not in hits]
        for placement in admission.misses:
            known = before.get(placement.expert, -1)
            if placement.expert in coarse:
                assert placement.part == COARSE
            else:
                assert placement.part == (REST if known >= slots else WHOLE)
        assert not {p.slot for p in admission.misses} & set(protect)
        assert len({p.slot for p in admission.misses}) == len(admission.misses)
        for placement in admission.misses:
            if placement.expert in failing:
                table.forget(placement.slot)
            else:
                contents.read(placement)
                table.commit(placement)
        contents.check()
        for expert in set(chosen) - failing:
            assert table.slot_of[expert] >= 0 and (table.whole(expert) or expert in coarse)
        gone = set(before) - set(table.resident)
        assert gone <= set(admission.evicted) | (failing & set(chosen))
        assert not gone & (set(chosen) - failing)


def test_who_gives_way_is_demoted_without_a_read():
    table = ResidencyTable(EXPERTS, 2, make_eviction("lru"), 2)
    contents = Contents(table)

    def event(*chosen: int, coarse: tuple[int, ...] = ()) -> list[Placement]:
        misses = table.begin(chosen, coarse=coarse).misses
        for placement in misses:
            contents.read(placement)
            table.commit(placement)
        contents.check()
        return list(misses)

    event(0, 1)
    assert [p.part for p in event(2)] == [WHOLE]
    assert not table.whole(0) and table.slot_of[0] >= 2, "0 was used longest ago and keeps its high bits"
    assert event(0, coarse=(0,)) == [], "which do for a light use"
    assert [(p.expert, p.part) for p in event(0)] == [(0, REST)], "a heavy one reads the rest"
    assert table.whole(0) and table.slot_of[1] >= 2, "and takes the place of 1, which takes its"
    assert [p.part for p in event(5, coarse=(5,))] == [COARSE]
    assert set(table.resident) == {0, 2, 1, 5}


def test_what_is_worth_less_than_all_low_slots_is_dropped():
    table = ResidencyTable(EXPERTS, 2, make_eviction("lru"), 1)
    contents = Contents(table)
    for chosen, coarse in (((0, 1), ()), ((7,), (7,)), ((2,), ())):
        for placement in table.begin(chosen, coarse=coarse).misses:
            contents.read(placement)
            table.commit(placement)
    assert table.slot_of[0] < 0 and table.slot_of[7] == 2, "7 was used after 0"


def test_an_interrupt_while_experts_move_leaves_a_sound_table():
    table = ResidencyTable(EXPERTS, 2, make_eviction("lru"), 2)
    contents = Contents(table)
    for placement in table.begin((0, 1)).misses:
        contents.read(placement)
        table.commit(placement)

    def interrupted(slot: int, low: int) -> None:
        raise KeyboardInterrupt

    contents.demote = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        table.begin((2,))
    table.mend()
    contents.check()
    assert table.resident == [1]


@pytest.mark.parametrize(("slots", "low"), [(0, 2), (8, 5), (EXPERTS + 1, 0)])
def test_slots_that_cannot_be(slots: int, low: int):
    with pytest.raises(ValueError, match="slots"):
        ResidencyTable(EXPERTS, slots, make_eviction("lru"), low)
