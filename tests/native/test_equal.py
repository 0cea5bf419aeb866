"""In the graph and read back: the same logits, tables and counters, bit for bit, and mlx-lm's under exact routing."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

import moe_mlx
from moe_mlx.expert_cache.eviction import EVICTIONS, LeastRecentlyUsed
from moe_mlx.expert_cache.residency import ResidencyTable
from tests.native.conftest import counts, loaded, state
from tests.native.runs import CAPS, FAMILIES, PAIRS, POLICIES, same, talk


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize(("policy", "evict"), PAIRS)
def test_every_policy_and_cap(native: Any, tiny: Callable[..., Path], policy: str, evict: str):
    for cap in CAPS:
        runs = []
        for way in ("native", "readback"):
            model, _, runtime = loaded(tiny(), way, cap, evict=evict, **POLICIES[policy])
            runs.append((talk(model), state(runtime), counts(runtime), runtime.stats.decode.read_backs))
            layers = [cache.table for cache in runtime.layers if not cache.full]
            assert sum(sum(layer.uses) for layer in layers) == sum(counts(runtime)[2:4])
            assert sum(sum(layer.reads) for layer in layers) == counts(runtime)[3]
            assert all(sum(layer.rows) == 3 * 19 * runtime.source.layers[0].top_k for layer in layers)
        (ours, table, counted, none), (oracle, oracle_table, oracle_counted, read_backs) = runs
        assert same(ours, oracle), cap
        assert table == oracle_table, cap
        assert counted == oracle_counted, cap
        assert (none, read_backs) == (0, counted[-1]), cap
    assert counted[4] > 0 or policy == "exact", "the policy never swapped: the comparison says nothing"


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_families(native: Any, tiny: Callable[..., Path], family: str):
    folder = tiny(family, quantized=family != "gpt_oss", store=False)
    theirs = talk(mlx_lm.load(str(folder))[0])
    for options in ({"routing": "exact"}, {"routing": "cache-prior", "route_lambda": 0.5}):
        runs = []
        for way in ("native", "readback"):
            model, _, runtime = loaded(folder, way, "50%", **options)
            runs.append((talk(model), state(runtime), counts(runtime)))
        assert same(runs[0][0], runs[1][0])
        assert runs[0][1:] == runs[1][1:]
        if options["routing"] == "exact":
            assert same(runs[0][0], theirs)


def test_half_precision_routers(native: Any, tiny: Callable[..., Path]):
    runs = []
    for way in ("native", "readback"):
        model, _, runtime = loaded(tiny(quantized=False), way, route_lambda=0.5)
        for name, module in model.named_modules():
            if name.endswith("gate"):
                module.apply(lambda array: array.astype(mx.bfloat16))
        runs.append((talk(model), state(runtime), counts(runtime)))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]


def test_whichever_way_goes_on_from_the_same_tables(native: Any, tiny: Callable[..., Path]):
    runs = []
    for ways in (["native", "readback"] * 2, ["readback"] * 4):
        model, _, runtime = loaded(tiny(), "native", route_lambda=0.3)
        outputs = []
        for way in ways:
            runtime.use_decode(way)
            outputs += talk(model, 1)
        runs.append((outputs, state(runtime), counts(runtime)))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]


def test_resizing_resetting_and_changing_the_policy(native: Any, tiny: Callable[..., Path]):
    runs = []
    for way in ("native", "readback"):
        model, _, runtime = loaded(tiny(), way, "25%", route_lambda=0.3)
        outputs = talk(model, 1)
        for change, value in (("resize", "75%"), ("set_routing", "max-rank"), ("resize", "100%"), ("resize", "25%")):
            runtime.resize(value) if change == "resize" else runtime.set_routing(routing=value, route_max_rank=8)
            outputs += talk(model, 1)
        runtime.reset()
        outputs += talk(model, 1)
        runs.append((outputs, state(runtime), counts(runtime)))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]


def test_graphs_that_are_evaluated_late_together_or_never(native: Any, tiny: Callable[..., Path]):
    """Two graphs that share no data still rewrite the same slots: the second waits for the first."""
    tokens = np.random.default_rng(3).integers(5, 90, 60).tolist()
    reference = mlx_lm.load(str(tiny(store=False)))[0]
    model, _, runtime = loaded(tiny(), "native", "18.75%", routing="exact")
    theirs = [reference(mx.array([[token]])) for token in tokens]
    ours = [model(mx.array([[token]])) for token in tokens]
    mx.eval(ours[40:] + ours[20:40])
    assert same(ours[20:], theirs[20:])
    assert same(ours[:20], theirs[:20])
    before = state(runtime)
    del ours
    model(mx.array([[7]]))  # built and dropped: the next step runs it first, as it would have been read back
    assert mx.array_equal(model(mx.array([[9]])), reference(mx.array([[9]])))
    assert state(runtime) != before


def test_far_more_steps_than_the_log_has_rows(native: Any, tiny: Callable[..., Path]):
    model, _, runtime = loaded(tiny(), "native", routing="exact")
    outputs = [model(mx.array([[5 + step % 80]])) for step in range(600)]
    mx.eval(outputs)
    runtime.drain()
    assert runtime.stats.decode.steps == 600
    assert runtime.stats.decode.hits + runtime.stats.decode.misses == runtime.stats.decode.choices


class MostRecentlyUsed(LeastRecentlyUsed):
    """An eviction that the primitive has never heard of, and that differs from those it knows at every miss."""

    name = "mru"

    def victim(self, table: ResidencyTable, since: int, protect: Collection[int]) -> int:
        free = [slot for slot in range(table.slots) if table.used[slot] <= since and slot not in protect]
        return max(free, key=lambda slot: (table.owner[slot] < 0, table.used[slot]), default=-1)


def test_an_eviction_that_only_python_knows_runs_in_python(
    native: Any, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(EVICTIONS, "mru", MostRecentlyUsed)
    runs = []
    for way in ("native", "readback"):
        model, _, runtime = loaded(tiny(), way, evict="mru", route_lambda=0.3)
        runs.append((talk(model), state(runtime), counts(runtime), runtime.stats.decode.read_backs))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]
    assert runs[0][3] > 0


def test_a_recorder_reads_back_and_leaves_the_state_alike(native: Any, tiny: Callable[..., Path]):
    model, _, runtime = loaded(tiny(), "native", route_lambda=0.3)
    seen: list[Any] = []
    first = talk(model, 1)
    for cache in runtime.layers:
        cache.recorder = seen.append
    first += talk(model, 1)
    for cache in runtime.layers:
        cache.recorder = None
    first += talk(model, 1)
    other, _, reference = loaded(tiny(), "readback", route_lambda=0.3)
    assert same(first, [output for _ in range(3) for output in talk(other, 1)])
    assert len(seen) == 12 * len(runtime.layers)
    assert state(runtime) == state(reference)


def test_the_records_are_whole_and_in_order(native: Any, tiny: Callable[..., Path]):
    model, tokenizer, runtime = loaded(tiny(), "native")
    mlx_lm.generate(model, tokenizer, "what is a fox", max_tokens=30)
    runtime.drain()
    runtime.layers.ledger.collect(closing=True)
    records = moe_mlx.stats(model).records
    steps = [record.step for record in records]
    assert steps == sorted(set(steps))
    assert all(record.complete for record in records)
    assert all(record.totals.waits == len(runtime.layers) for record in records if record.phase == "decode")
