"""The contenders' victims: by hand for S3-FIFO and the mix, and never one of the running event."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_mlx.errors import UsageError
from moe_mlx.evaluation.contenders import CONTENDERS, make_any
from moe_mlx.evaluation.setting import Setting
from moe_mlx.expert_cache.residency import ResidencyTable

EXPERTS = 12


def play(table, events):
    evicted = []
    for chosen in events:
        admission = table.begin(chosen)
        assert not set(admission.evicted) & set(chosen)
        for placement in admission.misses:
            table.commit(placement)
        table.check()
        assert all(table.slot_of[expert] >= 0 for expert in chosen)
        evicted.append(list(admission.evicted))
    return evicted


@pytest.mark.parametrize("name", [*CONTENDERS, "lfu:4"])
@settings(max_examples=100)
@given(
    slots=st.integers(2, 8),
    choices=st.lists(st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=2, unique=True), max_size=60),
)
def test_a_victim_is_there_and_not_of_this_event(name, slots, choices):
    play(ResidencyTable(EXPERTS, slots, make_any(name)), choices)


def test_s3_fifo_lets_one_hit_wonders_go_first_and_takes_back_what_left_lately():
    table = ResidencyTable(EXPERTS, 3, make_any("s3-fifo"))
    assert play(table, [[0], [1], [1], [2], [3]]) == [[], [], [], [], [0]]  # 1 was used again, 0 never
    assert play(table, [[0]]) == [[2]]  # 1 moves to the main queue on the way
    assert play(table, [[4], [5]]) == [[3], [4]]  # 0, back from the ghosts, is not a newcomer any more
    assert sorted(table.resident) == [0, 1, 5]


def test_the_mix_empties_what_is_neither_recent_nor_frequent():
    table = ResidencyTable(EXPERTS, 3, make_any("mix"))
    assert play(table, [[0], [0], [0], [1], [2], [3]])[-1] == [1]


@settings(max_examples=100)
@given(
    pins=st.integers(1, 5),
    choices=st.lists(st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=2, unique=True), max_size=60),
)
def test_a_pinned_expert_never_gives_way_and_the_rest_is_lru(pins, choices):
    uses = [sum(expert in chosen for chosen in choices) for expert in range(EXPERTS)]
    eviction = make_any(f"pin:{pins}")
    table = ResidencyTable(EXPERTS, 7, eviction)
    eviction.pin(table, uses, 2)
    pinned = {expert for expert in range(EXPERTS) if table.pinned[expert]}
    assert min(uses[expert] for expert in pinned) >= sorted(uses)[-pins]
    evicted = [expert for event in play(table, choices) for expert in event]
    assert not pinned & set(evicted)


def test_pins_and_a_token_s_experts_must_fit():
    eviction = make_any("pin:4")
    table = ResidencyTable(EXPERTS, 6, eviction)
    eviction.pin(table, range(EXPERTS), 2)
    assert list(table.pinned) == [0] * 8 + [1] * 4
    with pytest.raises(UsageError, match=r"4 \+ 2 \(top-k\) slots a layer, and there are 5"):
        eviction.pin(ResidencyTable(EXPERTS, 5, eviction), range(EXPERTS), 2)
    for name in ("pin", "pin:0", "pin:x", "pin:-1"):
        with pytest.raises(UsageError, match="pin:4"):
            make_any(name)


def test_names_of_contenders():
    assert make_any("lfu:16").growth == pytest.approx(2 ** (1 / 16))
    assert Setting("50%", evict="mix").key == "50% mix exact"
    for name in ("lfu:0", "lfu:x", "lfu:-1", "fifo"):
        with pytest.raises(UsageError, match="lfu"):
            Setting("50%", evict=name)
