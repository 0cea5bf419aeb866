"""Victims against naive models of LRU and aged LFU that recount the whole history each time."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_mlx.errors import UsageError
from moe_mlx.expert_cache import eviction
from moe_mlx.expert_cache.eviction import (
    LFU_HALF_LIFE,
    ROUTER_BONUS,
    ROUTER_KEEP,
    AgedLeastFrequentlyUsed,
    LeastRecentlyUsed,
    RouterMean,
    make_eviction,
)
from moe_mlx.expert_cache.residency import ResidencyTable

EXPERTS = 9
HISTORY = st.integers(2, 6).flatmap(
    lambda slots: st.tuples(
        st.just(slots),
        st.lists(st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=slots, unique=True), max_size=40),
    )
)


def run(table, events, worst):
    """Plays events and checks each victim against `worst(resident, seen)`, which names the one to go."""
    seen = []
    for chosen in events:
        resident = set(table.resident)
        admission = table.begin(chosen)
        seen.append(chosen)
        for loser in admission.evicted:
            assert loser == worst(resident - set(chosen), seen)
            resident.discard(loser)
        for placement in admission.misses:
            table.commit(placement)


@settings(max_examples=150)
@given(HISTORY)
def test_lru_empties_the_expert_chosen_longest_ago(history):
    slots, events = history

    def worst(candidates, seen):
        last = {expert: (t, place) for t, chosen in enumerate(seen) for place, expert in enumerate(chosen)}
        return min(candidates, key=last.__getitem__)

    run(ResidencyTable(EXPERTS, slots, LeastRecentlyUsed()), events, worst)


@settings(max_examples=150)
@given(HISTORY)
def test_lfu_empties_the_least_used_counting_old_uses_less(history):
    slots, events = history
    half_life = 3.0

    def worst(candidates, seen):
        heat, last = dict.fromkeys(range(EXPERTS), 0.0), {}
        for t, chosen in enumerate(seen):
            for place, expert in enumerate(chosen):
                heat[expert] += 0.5 ** ((len(seen) - t) / half_life)
                last[expert] = (t, place)
        least = min(heat[expert] for expert in candidates)
        tied = [expert for expert in candidates if heat[expert] <= least * (1 + 1e-12)]
        return min(tied, key=last.__getitem__)

    run(ResidencyTable(EXPERTS, slots, AgedLeastFrequentlyUsed(half_life)), events, worst)


@settings(max_examples=150)
@given(HISTORY, st.randoms(use_true_random=False))
def test_the_router_s_least_favourite_goes(history, random):
    slots, events = history
    table = ResidencyTable(EXPERTS, slots, RouterMean())
    told: list[list[float]] = []
    seen: list[list[int]] = []

    def heat(expert: int) -> float:
        mean = 0.0
        for scores, chosen in zip(told, seen, strict=True):
            mean = ROUTER_KEEP * mean + (1 - ROUTER_KEEP) * scores[expert]
            if expert in chosen:
                mean += (1 - ROUTER_KEEP) * ROUTER_BONUS * (max(scores) - min(scores))
        return mean

    for chosen in events:
        told.append([random.uniform(-4, 4) for _ in range(EXPERTS)])
        table.eviction.observe(table, told[-1])
        left = set(table.resident) - set(chosen)
        admission = table.begin(chosen)
        seen.append(chosen)
        for loser in admission.evicted:
            assert heat(loser) == pytest.approx(min(map(heat, left)))
            left.discard(loser)
        for placement in admission.misses:
            table.commit(placement)
    assert list(table.heat) == pytest.approx([heat(expert) for expert in range(EXPERTS)])


@settings(max_examples=50)
@given(HISTORY)
def test_without_scores_the_router_s_eviction_is_lru(history):
    slots, events = history
    tables = [ResidencyTable(EXPERTS, slots, eviction()) for eviction in (RouterMean, LeastRecentlyUsed)]
    for chosen in events:
        first, second = (table.begin(chosen) for table in tables)
        assert first == second
        for table, admission in zip(tables, (first, second), strict=True):
            for placement in admission.misses:
                table.commit(placement)


def test_an_expert_that_the_router_ruled_out_counts_as_the_lowest():
    table = ResidencyTable(3, 3, RouterMean(keep=0.5, bonus=1.0))
    table.eviction.observe(table, [-math.inf, 2.0, -4.0])
    assert list(table.heat) == [-2.0, 1.0, -2.0]
    assert table.state.score_range == 6.0


def test_the_gain_is_scaled_down_long_before_it_overflows(monkeypatch):
    monkeypatch.setattr(eviction, "_HEAT_CEILING", 4.0)
    small = ResidencyTable(4, 2, AgedLeastFrequentlyUsed(1.0))
    monkeypatch.undo()
    large = ResidencyTable(4, 2, AgedLeastFrequentlyUsed(1.0))
    for chosen in ([0], [0, 1], [2], [0], [3], [1], [0, 2], [3], [1]) * 3:
        monkeypatch.setattr(eviction, "_HEAT_CEILING", 4.0)
        a = small.begin(chosen)
        monkeypatch.undo()
        b = large.begin(chosen)
        assert a.evicted == b.evicted
        for table, admission in ((small, a), (large, b)):
            for placement in admission.misses:
                table.commit(placement)
    assert small.state.gain <= 8.0 < large.state.gain


def test_a_touch_counts_half_after_the_half_life():
    table = ResidencyTable(3, 3, make_eviction("lfu"))
    table.eviction.touch(table, 0)
    for _ in range(LFU_HALF_LIFE):
        table.eviction.end_event(table)
    table.eviction.touch(table, 1)
    assert table.heat[1] == pytest.approx(2 * table.heat[0])


def test_an_unknown_eviction_is_refused():
    with pytest.raises(UsageError, match="unknown eviction 'random': choose one of lru, lfu, router"):
        make_eviction("random")
