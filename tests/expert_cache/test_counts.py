"""What a table counts of each expert: the step's own sums, and distances that give the misses of every cap at once."""

import numpy as np
import pytest

from moe_mlx.evaluation.replay import replay_layer
from moe_mlx.evaluation.trace import LayerTrace
from moe_mlx.expert_cache.eviction import LeastRecentlyUsed
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx.routing.exact import Exact

EXPERTS, TOP_K, TOKENS = 16, 3, 400


def steps(seed: int) -> np.ndarray:
    """Choices with habits: near experts follow each other, a few are liked throughout."""
    random = np.random.default_rng(seed)
    rows = []
    for token in range(TOKENS):
        liked = np.exp(-((np.arange(EXPERTS) - token / 40) % EXPERTS) / 3)
        rows.append(random.choice(EXPERTS, TOP_K, replace=False, p=liked / liked.sum()))
    return np.array(rows, dtype=np.int32)


def run(table: ResidencyTable, rows: np.ndarray) -> tuple[int, int]:
    hits = misses = 0
    for chosen in rows.tolist():
        admission = table.begin(chosen)
        for placed in admission.misses:
            table.commit(placed)
        missed = [placed.expert for placed in admission.misses]
        table.count(chosen, missed)
        hits, misses = hits + len(admission.hits), misses + len(missed)
    return hits, misses


def test_uses_and_reads_add_up_to_hits_and_misses():
    table, rows = ResidencyTable(EXPERTS, 5, LeastRecentlyUsed()), steps(1)
    hits, misses = run(table, rows)
    assert list(table.uses) == np.bincount(rows.reshape(-1), minlength=EXPERTS).tolist()
    assert (sum(table.uses), sum(table.reads)) == (hits + misses, misses)
    assert sum(table.distances) == hits + misses


@pytest.mark.parametrize("seed", range(3))
def test_one_pass_gives_the_misses_of_every_cap(seed: int):
    rows = steps(seed)
    table = ResidencyTable(EXPERTS, TOP_K, LeastRecentlyUsed())
    run(table, rows)
    none = np.zeros((TOKENS, EXPERTS), dtype=np.float32)
    layer = LayerTrace(EXPERTS, TOP_K, 1, none, none, none, rows, rows)
    for slots in range(TOP_K, EXPERTS + 1):
        replayed = replay_layer(layer, ResidencyTable(EXPERTS, slots, LeastRecentlyUsed()), Exact())
        assert sum(table.distances[slots:]) == replayed.misses.sum(), slots


def test_another_table_goes_on_counting():
    rows = steps(4)
    one, first, second = (
        ResidencyTable(EXPERTS, 5, LeastRecentlyUsed()),
        ResidencyTable(EXPERTS, 5, LeastRecentlyUsed()),
        ResidencyTable(EXPERTS, 9, LeastRecentlyUsed()),
    )
    run(one, rows)
    run(first, rows[:150])
    second.take_counts(first)
    run(second, rows[150:])
    for name in ("uses", "last", "distances"):
        assert getattr(second, name) == getattr(one, name), name
