"""Late experts in the graph and by read-back: the same logits, tables and counters, whatever comes in between."""

import io
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import make_prompt_cache

import moe_mlx
from moe_mlx.errors import ExpertReadError, UsageError
from moe_mlx.expert_cache.residency import QUARANTINED
from moe_mlx.routing.light import LightRule
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.damage import flip
from tests.expert_cache.late_oracle import first_late
from tests.native.conftest import loaded
from tests.native.pair import Pair, assert_alike, changes, outcome
from tests.native.runs import PAIRS, POLICIES, same, talk

FAMILIES = (
    "mixtral",
    "deepseek_v3",
    "gpt_oss",
    "olmoe",
    "ernie4_5_moe",
    "longcat_flash",
    "qwen3_next",
    "granitemoe",
    "laguna",
    "nemotron_h",
    "Klear",
    "dbrx",
    "phimoe",
)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of five layers whose tokens take six of sixteen experts."""
    from moe_mlx_convert import convert

    folder = tmp_path_factory.mktemp("deep")
    tiny_checkpoint("qwen3_moe", folder / "model", quantization=AFFINE4, num_hidden_layers=5, num_experts_per_tok=6)
    convert(folder / "model", folder / "store")
    return folder / "store"


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize(("policy", "evict"), PAIRS)
def test_every_policy_and_eviction(native: Any, deep: Path, policy: str, evict: str):
    for cap, beyond in (("37.5%", 0.6), ("75%", 0.2)):
        options = {**POLICIES[policy], "evict": evict, "light": "late", "light_beyond": beyond}
        runs = []
        for way in ("native", "readback"):
            model, _, runtime = loaded(deep, way, cap, **options)
            runs.append(outcome(model, runtime, 2))
            assert sum(sum(cache.table.lates) for cache in runtime.layers) == runs[-1][3][0]
        assert_alike(*runs)
        assert runs[0][3][0] > 0 or policy == "strong", "nobody was late: the comparison says nothing"


def test_a_threshold_for_each_layer(native: Any, deep: Path):
    runs = []
    for way in ("native", "readback"):
        model, _, runtime = loaded(deep, way, "37.5%", routing="exact")
        runtime.light_by(LightRule("late", by_layer=(1.0, 0.0, 0.6, 0.3)))
        runs.append(outcome(model, runtime, 2))
        lates = [sum(cache.table.lates) for cache in runtime.layers]
        assert not lates[0] and lates[1] > lates[2] > 0
        with pytest.raises(UsageError, match="3 thresholds of light experts for 4 layers"):
            runtime.light_by(LightRule("late", by_layer=(0.5,) * 3))
    assert_alike(*runs)


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_families(native: Any, tiny: Callable[..., Path], family: str):
    folder = tiny(family, quantized=family != "gpt_oss", store=False)
    runs = []
    for way in ("native", "readback"):
        model, _, runtime = loaded(folder, way, "37.5%", routing="exact", light="late", light_beyond=0.0)
        runs.append(outcome(model, runtime))
    assert_alike(*runs)
    assert (runs[0][3][0] > 0) == (family != "phimoe")


BETWEEN = st.lists(changes("late", "exact", "dropped"), min_size=1, max_size=10)


@pytest.fixture
def pair(native: Any, deep: Path) -> Pair:
    return Pair(deep, "late")


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BETWEEN)
def test_whatever_comes_in_between(pair: Pair, made: list[tuple[str, Any]]):
    stays_alike(pair, made)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BETWEEN)
def test_whatever_comes_in_between_at_length(pair: Pair, made: list[tuple[str, Any]]):
    stays_alike(pair, made)


def stays_alike(pair: Pair, made: list[tuple[str, Any]]) -> None:
    pair.begin()
    for change, value in made:
        pair.apply(change, value)
        assert pair.alike(), (change, value)


def test_residency_decides_and_the_disk_s_speed_does_not(native: Any, deep: Path, monkeypatch: pytest.MonkeyPatch):
    def slowed(runtime: Any) -> None:
        read, chance = runtime.source.read_into, random.Random(1)

        def slow(*args: Any) -> int:
            time.sleep(chance.choice([0, 0, 0.002]))
            return int(read(*args))

        monkeypatch.setattr(runtime.source, "read_into", slow)

    runs = []
    for way, readers in (("native", 1), ("native", 8), ("readback", 1), ("readback", 8)):
        model, _, runtime = loaded(deep, way, "50%", light="late", light_beyond=0.3, readers=readers)
        if way == "readback":
            slowed(runtime)
        runs.append(outcome(model, runtime))
    for run in runs[1:]:
        assert_alike(runs[0], run)


LATE: dict[str, Any] = {"cap": "37.5%", "routing": "exact", "light": "late", "light_beyond": 0.0}


@pytest.mark.parametrize("way", ["native", "readback"])
def test_a_late_read_that_fails_is_told_by_its_own_name(native: Any, tmp_path: Path, deep: Path, way: str):
    """An expert of the second layer is damaged: the third waits for it, the answer ends, the next one is right."""
    shutil.copytree(deep, tmp_path / "store")
    expert, tokens = first_late(loaded(deep, "readback", **LATE)[0], 1)
    model, _, runtime = loaded(tmp_path / "store", way, **LATE)
    damaged = runtime.source.byte_ranges(1, expert)[0].path
    flip(damaged)
    cache = make_prompt_cache(model)
    for token in tokens[:-1]:
        mx.eval(model(mx.array([[token]]), cache=cache))
    with pytest.raises(ExpertReadError) as caught:
        mx.eval(model(mx.array([[tokens[-1]]]), cache=cache))
    assert (caught.value.layer, caught.value.expert, caught.value.path) == (2, expert, damaged), (
        "the first layer is dense"
    )
    runtime.layers.ledger.collect(closing=True)
    last = moe_mlx.stats(model).records[-1]
    ran = [hits + misses > 0 for hits, misses in zip(last.layer_hits, last.layer_misses, strict=True)]
    assert ran == [True, True, False, False], "the row of the layer that waited is the first that is missing"
    for one in runtime.layers:
        one.table.check()
    assert runtime.layers[1].table.slot_of[expert] < 0
    flip(damaged)
    reference, _, other = loaded(deep, "readback", **LATE)
    for each in (runtime, other):
        each.end_turn()
        each.reset()
    assert same(talk(model, 1), talk(reference, 1))


def test_a_late_read_that_stalls_in_the_graph(native: Any, heavy: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing is computed between a layer and the next, which waits a nanosecond: what is late is not there yet."""
    options: dict[str, Any] = {**LATE, "cap": "75%"}
    model, _, runtime = loaded(heavy, "native", readers=1, **options)
    mx.eval(model(mx.array([[5]])))  # layers are handed to the graph at their first step
    handle = runtime.layers.native.layers[0]._handle
    with monkeypatch.context() as swift:
        switch, attention = type(runtime.layers[0].inner), type(model.model.layers[1].self_attn)
        swift.setattr(switch, "__call__", lambda self, x, slots, *_: mx.zeros((*slots.shape, x.shape[-1])))
        swift.setattr(attention, "__call__", lambda self, x, *_, **__: mx.zeros_like(x))
        stalled = next(filter(None, (_stall(model, runtime, handle, 6 + n % 120) for n in range(1000))), None)
    assert stalled is not None, "every late read was there in time"
    assert (stalled.layer, stalled.path) == (0, runtime.source.byte_ranges(0, stalled.expert)[0].path)
    reference, _, _ = loaded(heavy, "readback", **options)
    runtime.reset()
    assert same(talk(model, 1), talk(reference, 1))


def _stall(model: Any, runtime: Any, handle: Any, token: int) -> ExpertReadError | None:
    """One step that the first layer has no time for; what it raised, where the second raised it. Slots come back."""
    handle.stall_seconds = 1e-9
    caught = None
    try:
        mx.eval(model(mx.array([[token]])))
    except ExpertReadError as error:
        caught = error
        assert error.reason == "no answer from the disk in 1e-09 s"
    handle.stall_seconds = 60.0
    runtime.end_turn()
    runtime.layers.ledger.collect(closing=True)
    ran = moe_mlx.stats(model).records[-1]
    for _ in range(10_000):
        runtime.drain()
        if not any(QUARANTINED in cache.table.used for cache in runtime.layers):
            break
    else:
        pytest.fail("a slot was never given back")
    return None if ran.complete else caught


@pytest.mark.parametrize("way", ["native", "readback"])
def test_with_every_expert_resident_a_step_is_the_same_graph(native: Any, deep: Path, way: str):
    """So that late experts cost no time where nothing is absent; under a cap their rows are in it."""

    def operations(cap: str, mode: str) -> list[str]:
        model, _, runtime = loaded(deep, way, cap, routing="exact")
        runtime.light_by(LightRule(mode))
        dot = io.StringIO()
        mx.export_to_dot(dot, model(mx.array([[5]]), cache=make_prompt_cache(model)))
        return sorted(re.findall(r'label ?= ?"([^"]*)", shape=rectangle', dot.getvalue()))

    whole = operations("100%", "exact")
    assert len(whole) > 100 and operations("100%", "late") == whole
    assert len(operations("75%", "late")) > len(operations("75%", "exact"))


def test_a_step_is_counted_whole(native: Any, deep: Path):
    model, _, runtime = loaded(deep, "native", "50%", light="late")
    talk(model, 1)
    records = moe_mlx.stats(model).records
    assert all(record.complete for record in records)
    totals = runtime.stats.decode
    assert totals.read_waits + totals.waits_saved <= totals.waits
    assert totals.late <= totals.misses and 0 < totals.late_weight < totals.late
