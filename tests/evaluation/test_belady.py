"""Belady's misses against an exhaustive search, and how long experts stay against a plain recount."""

from itertools import combinations

import numpy as np
import pytest

from moe_mlx.evaluation.belady import belady_misses
from moe_mlx.evaluation.lifetime import lifetime, residence
from moe_mlx.expert_cache.eviction import LeastRecentlyUsed
from moe_mlx.expert_cache.residency import ResidencyTable


def fewest(choices, experts, slots):
    """The fewest misses over every possible eviction, by dynamic programming over resident sets."""
    costs = {frozenset(): 0}
    for chosen in map(set, choices):
        after: dict[frozenset[int], int] = {}
        for resident, cost in costs.items():
            missed = len(chosen - resident)
            room = slots - len(chosen)
            others = resident - chosen
            for count in range(min(room, len(others)) + 1):
                for kept in combinations(sorted(others), count):
                    state = frozenset(chosen | set(kept))
                    after[state] = min(after.get(state, 1 << 30), cost + missed)
        costs = after
    return min(costs.values())


@pytest.mark.parametrize("seed", range(12))
def test_no_eviction_misses_less(seed):
    rng = np.random.default_rng(seed)
    experts, k = 6, int(rng.integers(1, 4))
    slots = int(rng.integers(k, 6))
    choices = [rng.permutation(experts)[:k].tolist() for _ in range(14)]
    assert belady_misses(choices, experts, slots).sum() == fewest(choices, experts, slots)


def test_a_full_layer_misses_each_expert_once():
    assert belady_misses([[0, 1], [2, 0], [1, 2], [0, 1]], 3, 3).tolist() == [2, 1, 0, 0]


def test_lifetime_is_a_mean_over_stays():
    rng = np.random.default_rng(3)
    table = ResidencyTable(8, 4, LeastRecentlyUsed())
    misses, began, stays = [], {}, []
    for token in range(60):
        admission = table.begin(rng.permutation(8)[:2].tolist())
        for placement in admission.misses:
            table.commit(placement)
            began[placement.expert] = token
        stays += [token - began.pop(expert) for expert in admission.evicted]
        misses.append(len(admission.misses))
    stays += [60 - start for start in began.values()]
    missed = np.array(misses, dtype=np.int64)
    assert residence(missed, 4) == (sum(stays), len(stays))
    assert lifetime([(missed, 4, 8)]) == pytest.approx(np.mean(stays))


def test_what_is_always_there_stays_for_all_tokens():
    assert lifetime([(np.zeros(30, dtype=np.int64), 8, 8)]) == 30.0
