"""One layer's table, step by step: what an event does, and what it must never do."""

from types import SimpleNamespace

import numpy as np
import pytest

from moe_mlx.errors import SlotsBusyError
from moe_mlx.expert_cache.eviction import LeastRecentlyUsed, make_eviction
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx.routing.cache_prior import CachePrior


def bring(table, chosen, protect=()):
    admission = table.begin(chosen, protect)
    for placement in admission.misses:
        table.commit(placement)
    return admission


def test_hits_and_misses_are_judged_before_anything_moves():
    table = ResidencyTable(6, 2, LeastRecentlyUsed())
    bring(table, [0, 1])
    admission = table.begin([2, 0])  # 1 gives way, though 0 is the older of the two
    assert admission.hits == (0,)
    assert [placement.expert for placement in admission.misses] == [2]
    assert admission.evicted == (1,)


def test_a_slot_under_way_belongs_to_nobody():
    table = ResidencyTable(4, 2, LeastRecentlyUsed())
    (placement,) = table.begin([3]).misses
    assert table.resident == []
    assert table.slot_of[3] == -1
    table.commit(placement)
    assert table.resident == [3]


def test_a_failed_read_leaves_an_empty_slot_that_goes_first():
    table = ResidencyTable(4, 2, LeastRecentlyUsed())
    bring(table, [0])
    lost, kept = table.begin([1]).misses[0], 0
    table.forget(lost.slot)
    assert table.resident == [kept]
    assert bring(table, [2]).evicted == ()
    table.check()


def test_the_heaviest_is_touched_first_and_goes_first():
    table = ResidencyTable(6, 3, LeastRecentlyUsed())
    bring(table, [4, 2, 0])  # descending weight
    assert bring(table, [5]).evicted == (4,)
    assert bring(table, [3]).evicted == (2,)


def test_an_event_larger_than_the_layer_is_refused_and_leaves_a_sound_table():
    table = ResidencyTable(6, 2, LeastRecentlyUsed())
    bring(table, [0])
    with pytest.raises(SlotsBusyError, match="3 experts need slots, and only 2 are there"):
        table.begin([1, 2, 3])
    table.check()
    bring(table, [4, 5])
    assert sorted(table.resident) == [4, 5]


def test_protected_slots_stay():
    table = ResidencyTable(6, 2, LeastRecentlyUsed())
    bring(table, [0, 1])
    slot = table.slot_of[0]
    assert bring(table, [2], protect={slot}).evicted == (1,)
    with pytest.raises(SlotsBusyError):
        table.begin([3], protect={0, 1})
    table.check()


def test_reset_is_a_new_table():
    table = ResidencyTable(5, 3, make_eviction("lfu"))
    bring(table, [0, 1, 2])
    table.observe_range(2.0)
    table.count([0, 1], [1])
    table.rows[3] = 7
    table.reset()
    fresh = ResidencyTable(5, 3, LeastRecentlyUsed())
    for name in ResidencyTable.ARRAYS:
        assert getattr(table, name) == getattr(fresh, name), name
    assert table.state.tobytes() == fresh.state.tobytes()


def test_a_stalled_read_keeps_its_slot_through_a_reset():
    table = ResidencyTable(8, 3, LeastRecentlyUsed())
    (miss,) = table.begin([4]).misses
    table.quarantine(miss.slot)
    table.reset()
    given = {placement.slot for placement in table.begin([4, 5]).misses}
    assert miss.slot not in given
    table.forget(miss.slot)
    table.reset()
    assert len(table.begin([0, 1, 2]).misses) == 3


def test_the_range_is_a_running_mean_that_counts_its_own_token():
    table = ResidencyTable(4, 2, LeastRecentlyUsed())
    assert [table.observe_range(span) for span in (4.0, 2.0, 3.0)] == [4.0, 3.0, 3.0]


def test_a_layer_ranks_with_the_mean_of_prompt_and_decode_tokens():
    table = ResidencyTable(4, 2, LeastRecentlyUsed())
    cache = LayerCache(SimpleNamespace(), table, None, None, CachePrior(0.5, 0), None, None, None)
    cache.spans = [np.array([4.0, 8.0], dtype=np.float32)]
    raw = np.array([0, 1, 2, 3], dtype=np.float32)
    cache.choose(raw, [3, 2], raw)
    assert table.state.range_sum / table.state.range_tokens == 5.0  # (4 + 8 + 3) / 3


def test_slots_must_be_between_one_and_all():
    for slots in (0, 5):
        with pytest.raises(ValueError, match="slots for 4 experts"):
            ResidencyTable(4, slots, LeastRecentlyUsed())
