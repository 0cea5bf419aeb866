"""Prefetch changes nothing but when bytes are read: results, tables and counts are those without."""

import gc
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest

import moe_mlx
from moe_mlx.errors import DoesNotFitError, ExpertReadError, UsageError
from moe_mlx.expert_cache.residency import QUARANTINED
from moe_mlx.planning.budget import mlx_cache_bytes
from moe_mlx.planning.prefetch import plan_prefetch
from moe_mlx.store import open_source
from moe_mlx.system import calibration
from tests.damage import FAULTS
from tests.native.conftest import counts, loaded, state
from tests.native.endings import ENDINGS, HEAD, PATIENCE, in_one_thread_after_another, within
from tests.native.failing import failure
from tests.native.runs import CAPS, FAMILIES, PAIRS, POLICIES, same, steps, talk

#: By day one row of exact routing and one of a policy.
PREFETCHED = [
    pytest.param(*row.values, marks=pytest.mark.slow if row.values[0] in ("max-rank", "cumulative") else row.marks)
    for row in PAIRS
]


def guesses(runtime: Any) -> tuple[int, int, int]:
    """Begun, used, wasted bytes."""
    runtime.drain()
    totals = runtime.stats.decode
    return totals.hinted, totals.hint_hits, totals.wasted_bytes


@pytest.fixture
def store(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny(), tmp_path / "store"))


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize(("policy", "evict"), PREFETCHED)
def test_nothing_changes(native: Any, tiny: Callable[..., Path], policy: str, evict: str):
    begun = used = 0
    for cap in CAPS:
        runs = []
        for way, prefetch in (("native", "on"), ("native", "off"), ("readback", "off")):
            extra = {"prefetch_extra": 2} if cap == "25%" else {}
            model, _, runtime = loaded(tiny(), way, cap, evict=evict, prefetch=prefetch, **extra, **POLICIES[policy])
            runs.append((talk(model), state(runtime), counts(runtime)))
            if prefetch == "on":
                totals, spec = runtime.stats.decode, runtime.source.layers[0]
                assert totals.hint_hits <= min(totals.hinted, totals.misses)
                assert totals.wasted_bytes == (totals.hinted - totals.hint_hits) * spec.expert_nbytes
                assert totals.bytes_read == totals.misses * spec.expert_nbytes
                begun, used = begun + totals.hinted, used + totals.hint_hits
            else:
                assert guesses(runtime) == (0, 0, 0)
        for other in runs[1:]:
            assert same(runs[0][0], other[0]), cap
            assert runs[0][1:] == other[1:], cap
    assert begun > 0
    assert used > 0 or policy == "strong", "no guess was ever right: the comparison says nothing"


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_families(native: Any, tiny: Callable[..., Path], family: str):
    folder = tiny(family, quantized=family != "gpt_oss", store=False)
    for options in ({"routing": "exact"}, {"routing": "cache-prior", "route_lambda": 0.5}):
        runs = []
        for prefetch in ("on", "off"):
            model, _, runtime = loaded(folder, "native", "25%", prefetch=prefetch, **options)
            runs.append((talk(model), state(runtime), counts(runtime)))
            guessed = guesses(runtime)[0]
            layers = len(runtime.layers)
            assert (guessed > 0) == (prefetch == "on" and family != "llama4" and layers > 1), guessed
        assert same(runs[0][0], runs[1][0])
        assert runs[0][1:] == runs[1][1:]


def test_the_guess_is_the_next_router_s_word(native: Any, tiny: Callable[..., Path]):
    """With what a layer chooses told in advance, every miss is prefetched and nothing is wasted."""
    _, _, runtime = loaded(tiny(), "native", routing="exact", prefetch="on")
    first, second = runtime.layers[:2]
    top = [3, 1, 7][: second.spec.top_k]
    told = mx.zeros(second.spec.experts)
    told[mx.array(top)] = mx.array([3.0, 2.0, 1.0][: len(top)])
    second.router = lambda x: told
    native_layer = runtime.layers.native.layers[0]
    x = mx.zeros((1, 1, 8))
    for expected in (len(top), 0):  # the second time they are resident
        native_layer.guess_next(x)
        assert native_layer._next_scores is not None
        mx.eval(native_layer.step(mx.array([[list(range(first.spec.top_k))]])).slots)
        mx.eval(runtime.layers.native.layers[1].step(mx.array([[top]])).slots)
        begun, used, wasted = guesses(runtime)
        assert used == begun == expected or (used <= begun < expected)  # one that had not begun in time is dropped
        assert wasted == 0
        runtime.layers.ledger.reset()


def test_staging_is_in_the_plan_and_is_refused_like_the_rest(
    native: Any, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    _, _, without = loaded(tiny(), "native", prefetch="off")
    _, _, runtime = loaded(tiny(), "native", prefetch="on", prefetch_extra=2, readers=3)
    spec = runtime.source.layers[0]
    how = runtime.prefetch
    assert (how.threads, how.buffers) == (2, spec.top_k + 2 + 2)
    assert how.buffer_nbytes % 16384 == 0 <= how.buffer_nbytes - spec.expert_nbytes < 16384
    # The share that MLX may cache goes with the memory that happens to be free.
    whole, bare = (plan.total - plan.mlx_cache for plan in (runtime.plan, without.plan))
    assert runtime.plan.extra == how.nbytes == whole - bare
    assert runtime.resize("50%").extra == how.nbytes
    plan = without.plan
    least = plan.expert_cache + plan.resident_weights + plan.kv_cache + mlx_cache_bytes(0)
    monkeypatch.setattr("moe_mlx.loading.memory.room_beside", lambda freed: least + how.nbytes // 2)
    loaded(tiny(), "native", without.expert_cache_bytes, prefetch="off")
    with pytest.raises(DoesNotFitError, match="does not fit"):
        loaded(tiny(), "native", without.expert_cache_bytes, prefetch="on", prefetch_extra=2, readers=3)


def test_auto_goes_by_the_calibration(native: Any, tiny: Callable[..., Path], monkeypatch, tmp_path: Path):
    monkeypatch.setattr(calibration, "calibration_path", lambda: tmp_path / "calibration.json")
    source = open_source(tiny())
    for gain, on in ((None, False), (0.9, False), (1.02, False), (1.1, True), ("fast", False)):
        if gain is not None:
            calibration.store_calibration(prefetch_gain=gain)
        for readers in (1, 4):
            how = plan_prefetch("auto", 0, source.layers, readers)
            assert (how is not None) == on, gain
    calibration.store_calibration(prefetch_gain=1.1)
    model, _ = moe_mlx.load(tiny(), expert_cache="25%", decode="native", say=lambda line: None)
    assert moe_mlx.runtime_of(model).prefetch.why == "this machine's calibration measured 1.10x"
    moe_mlx.runtime_of(model).close()
    source.close()


def test_what_cannot_be_had_is_said(native: Any, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    lines: list[str] = []
    model, _ = moe_mlx.load(tiny(), expert_cache="25%", decode="readback", prefetch="on", say=lines.append)
    runtime = moe_mlx.runtime_of(model)
    assert [line for line in lines if "prefetch" in line] == [
        "--prefetch on has no effect: decode is not in the graph (as asked)"
    ]
    assert (runtime.prefetch, runtime.plan.extra) == (None, 0)
    runtime.close()
    lines.clear()
    model, _ = moe_mlx.load(tiny("llama4"), expert_cache="25%", decode="native", prefetch="on", say=lines.append)
    assert sum("nothing is guessed of" in line for line in lines) == 1
    moe_mlx.runtime_of(model).close()
    for options in ({"prefetch": "maybe"}, {"prefetch_extra": 1.5}):
        with pytest.raises(UsageError):
            moe_mlx.load(tiny(), **options)


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_expert_is_nobody_s_trouble_until_it_is_needed(
    native: Any, tiny: Callable[..., Path], store: Path, fault: str
):
    """Everything is guessed, half of the experts are damaged; errors come when and as they come without prefetch."""
    prefetched, demanded = (
        failure(store, tiny(), fault, "native", prefetch=prefetch, prefetch_extra=16) for prefetch in ("on", "off")
    )
    assert prefetched == demanded


def test_damaged_experts_that_are_never_chosen_are_never_heard_of(native: Any, tiny: Callable[..., Path], store: Path):
    model, _, runtime = loaded(store, "native", routing="exact", prefetch="off")
    seen: list[Any] = []
    for cache in runtime.layers:
        cache.recorder = seen.append
    told = steps(model)
    chosen = {(event.index, expert) for event in seen for expert in event.touched}
    unchosen = [
        (layer.index, expert)
        for layer in runtime.source.layers
        for expert in range(layer.experts)
        if (layer.index, expert) not in chosen
    ]
    if not unchosen:
        pytest.skip("this model chooses every expert in 30 tokens")
    for index, expert in unchosen:
        os.truncate(runtime.source.byte_ranges(index, expert)[0].path, 3)
    other, _, runtime = loaded(store, "native", routing="exact", prefetch="on", prefetch_extra=16)
    assert same(steps(other), told)
    begun, used, wasted = guesses(runtime)
    assert wasted < (begun - used) * runtime.source.layers[0].expert_nbytes  # the damaged ones were tried


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("stalling", ["every layer", "layers with guesses"])
def test_a_guess_that_stalls_hangs_nothing(native: Any, tiny: Callable[..., Path], stalling: str):
    model, _, runtime = loaded(tiny(), "native", routing="exact", prefetch="on", prefetch_extra=16)
    fresh = steps(model)
    runtime.reset()
    handles = [layer._handle for layer in runtime.layers.native.layers]
    for handle in handles[stalling != "every layer" :]:
        handle.stall_seconds = 1e-9
    raised = 0
    for turn in range(200):  # a read may be quicker than a waiter's wake-up, on a busy machine time and again
        if raised and turn >= 20:
            break
        try:
            within(PATIENCE, lambda: steps(model))
        except ExpertReadError as error:
            assert error.reason == "no answer from the disk in 1e-09 s"
            raised += 1
        if turn >= 20 and stalling != "every layer":
            break  # whether a guess is still being read when its step comes is the threads' business
    assert raised or stalling != "every layer"
    for handle in handles:
        handle.stall_seconds = 60.0
    for cache in runtime.layers:
        cache.table.check()
    time.sleep(0.2)
    steps(model)
    assert all(used < QUARANTINED for cache in runtime.layers for used in cache.table.used)
    runtime.reset()
    assert same(steps(model), fresh)


def test_resizing_resetting_and_changing_the_way(native: Any, tiny: Callable[..., Path]):
    runs = []
    for prefetch in ("on", "off"):
        model, _, runtime = loaded(tiny(), "native", "25%", route_lambda=0.3, prefetch=prefetch)
        outputs = talk(model, 1)
        for change in ("75%", "readback", "max-rank", "native", "100%", "18.75%"):
            mx.async_eval(model(mx.array([[7]])))  # steps and guesses under way
            if change.endswith("%"):
                runtime.resize(change)
            elif change == "max-rank":
                runtime.set_routing(routing=change, route_max_rank=8)
            else:
                runtime.use_decode(change)
            outputs += talk(model, 1)
        runs.append((outputs, state(runtime), counts(runtime)))
        mx.async_eval(model(mx.array([[9]])))
        runtime.reset()
        if prefetch == "on":
            assert guesses(runtime) == (0, 0, 0)
        outputs += talk(model, 1)
        mx.async_eval(model(mx.array([[9]])))
        runtime.close()
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]


def test_a_guess_that_waits_keeps_no_bank_that_was_replaced(native: Any, tiny: Callable[..., Path]):
    model, _, runtime = loaded(tiny(), "native", "75%", routing="exact", prefetch="on")
    steps(model)
    runtime.drain()
    first, second = runtime.layers.native.layers[:2]
    second.cache.router = lambda x: mx.arange(float(second.cache.spec.experts))
    first.guess_next(mx.zeros((1, 1, 64)))
    waiting = first.step(mx.array([[list(range(first.cache.spec.top_k))]]))  # holds its own layer's bank, no other
    banks = [cache.bank.nbytes for cache in runtime.layers]
    mx.clear_cache()
    before = mx.get_active_memory()
    runtime.resize("25%")
    mx.clear_cache()
    grown = mx.get_active_memory() - before
    assert grown < runtime.expert_cache_bytes - sum(banks[1:]) + banks[1] // 2
    mx.eval(waiting)
    runtime.reset()


def test_graphs_that_are_evaluated_late_together_or_never(native: Any, tiny: Callable[..., Path]):
    reference = mlx_lm.load(str(tiny(store=False)))[0]
    model, _, _ = loaded(tiny(), "native", "18.75%", routing="exact", prefetch="on", prefetch_extra=4)
    tokens = [5 + step * 7 % 80 for step in range(60)]
    theirs = [reference(mx.array([[token]])) for token in tokens]
    ours = [model(mx.array([[token]])) for token in tokens]
    mx.eval(ours[40:] + ours[20:40])
    assert same(ours, theirs)


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_ends_while_guesses_are_read(native: Any, tiny: Callable[..., Path], ending: str):
    head = HEAD.replace('decode="native"', 'decode="native", prefetch="on", prefetch_extra=8')
    assert head != HEAD
    done = subprocess.run(
        [sys.executable, "-c", head + ENDINGS[ending], str(tiny())],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_answers_in_one_thread_after_another(native: Any, tiny: Callable[..., Path]):
    model, tokenizer, _ = loaded(tiny(), "native", routing="exact", prefetch="on")
    reference, _, _ = loaded(tiny(), "readback", routing="exact")
    assert (
        in_one_thread_after_another(model, tokenizer, 3)
        == [mlx_lm.generate(reference, tokenizer, "what is a fox", max_tokens=30)] * 3
    )


def test_few_descriptors_are_left_to_the_steps(native: Any, tiny: Callable[..., Path]):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    model, _, runtime = loaded(tiny(), "native", routing="exact", prefetch="on")
    gc.collect()  # what earlier tests left open would be closed meanwhile, and make room
    try:
        held = {int(path.name) for path in Path("/dev/fd").iterdir()}
        room = [number for number in range(4096) if number not in held][:10]
        resource.setrlimit(resource.RLIMIT_NOFILE, (room[-1] + 1, hard))
        steps(model)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    begun, used, wasted = guesses(runtime)
    assert begun > used == wasted == 0


def test_without_effect_it_takes_its_own_memory_back_and_no_other(native: Any, tiny: Callable[..., Path]):
    for io in ("cached", "direct"):
        plans = [
            loaded(tiny(), "readback", routing="exact", io=io, prefetch=prefetch)[2].plan for prefetch in ("off", "on")
        ]
        assert plans[0].extra == plans[1].extra
