"""Whatever happens to a table, slots and experts stay a bijection and an event is atomic."""

from hypothesis import given, settings
from hypothesis import strategies as st

from moe_mlx.errors import SlotsBusyError
from moe_mlx.expert_cache.eviction import LeastRecentlyUsed, make_eviction
from moe_mlx.expert_cache.residency import ResidencyTable

EXPERTS = 10


@st.composite
def histories(draw):
    slots = draw(st.integers(1, EXPERTS))
    event = st.tuples(
        st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=slots, unique=True),
        st.sets(st.integers(0, slots - 1), max_size=2),
        st.sets(st.integers(0, EXPERTS - 1), max_size=2),  # experts whose read fails
        st.sets(st.integers(0, EXPERTS - 1), max_size=1),  # experts whose read stalls
        st.booleans(),  # whether the stalled reads before this event have ended
    )
    return slots, draw(st.lists(event, max_size=25))


@settings(max_examples=100)
@given(
    st.sets(st.integers(0, EXPERTS - 1), max_size=3),
    st.lists(st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=3, unique=True), max_size=40),
    st.sampled_from(["lru", "lfu", "router"]),
)
def test_a_pinned_expert_keeps_its_slot_once_it_has_one(pinned, choices, evict):
    table = ResidencyTable(EXPERTS, 6, make_eviction(evict))
    table.pin(pinned)
    assert table.free == 6 - len(pinned)
    slots: dict[int, int] = {}
    for chosen in choices:
        for placement in table.begin(chosen).misses:
            table.commit(placement)
        table.check()
        assert all(table.slot_of[expert] >= 0 for expert in chosen)
        for expert in pinned & set(table.resident):
            slots.setdefault(expert, table.slot_of[expert])
        assert {expert: table.slot_of[expert] for expert in slots} == slots
    there = [expert for expert in table.hottest() if expert in pinned]
    assert table.hottest()[: len(there)] == there
    smaller = table.resized(5)
    assert (list(smaller.pinned), smaller.free) == (list(table.pinned), 5 - len(pinned))


@settings(max_examples=150)
@given(histories(), st.sampled_from(["lru", "lfu"]))
def test_any_history_leaves_a_sound_table(history, evict):
    slots, events = history
    table = ResidencyTable(EXPERTS, slots, make_eviction(evict))
    stalled: set[int] = set()
    for chosen, protect, failing, stalling, ended in events:
        if ended:
            for slot in stalled:
                table.forget(slot)
            stalled.clear()
        before = set(table.resident)
        guarded = {table.owner[slot] for slot in protect if table.owner[slot] >= 0}
        try:
            admission = table.begin(chosen, protect)
        except SlotsBusyError:
            assert len(chosen) > slots - len(protect | stalled)  # refused only where it need not fit
            table.check()
            continue
        assert set(admission.hits) == before & set(chosen)
        assert [p.expert for p in admission.misses] == [e for e in chosen if e not in before]
        assert not set(admission.evicted) & (set(chosen) | guarded)
        assert not (protect | stalled) & {p.slot for p in admission.misses}
        assert set(table.resident) == before - set(admission.evicted)  # nothing is served before it is read
        table.check()
        for placement in admission.misses:
            if placement.expert in stalling:
                table.quarantine(placement.slot)
                stalled.add(placement.slot)
            elif placement.expert in failing:
                table.forget(placement.slot)
            else:
                table.commit(placement)
            table.check()
        assert set(table.resident) == (before - set(admission.evicted)) | (
            {p.expert for p in admission.misses} - failing - stalling
        )
        assert len(table.resident) <= slots - len(stalled)
        assert all(table.owner[slot] < 0 for slot in stalled)


@settings(max_examples=100)
@given(histories())
def test_nothing_is_evicted_while_a_slot_is_empty(history):
    slots, events = history
    table = ResidencyTable(EXPERTS, slots, LeastRecentlyUsed())
    for chosen, *_ in events:
        empty = slots - len(table.resident)
        admission = table.begin(chosen)
        assert len(admission.evicted) == max(0, len(admission.misses) - empty)
        for placement in admission.misses:
            table.commit(placement)
