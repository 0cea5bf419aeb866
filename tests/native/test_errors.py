"""What cannot be read in the graph reaches the caller as the same exception, and the next step works."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.errors import ExpertReadError
from moe_mlx.expert_cache.residency import QUARANTINED
from tests.damage import FAULTS, experts, flip, repair
from tests.native.conftest import loaded, state
from tests.native.endings import PATIENCE, within
from tests.native.failing import failure
from tests.native.runs import steps

TAKERS: dict[str, Callable[[mx.array], Any]] = {
    "eval": mx.eval,
    "async_eval": mx.async_eval,
    "item": lambda y: y[0, 0, 0].item(),
    "tolist": lambda y: y.tolist(),
    "numpy": np.array,
    "bool": lambda y: bool(y.sum() > 0),
    "str": str,
    "synchronize": lambda y: (mx.async_eval(y), mx.synchronize()),
    "save": lambda y: mx.save("/dev/null", y),
}


@pytest.fixture
def store(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny(), tmp_path / "store"))


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_same_exception_as_read_back(native: Any, tiny: Callable[..., Path], store: Path, fault: str):
    in_graph, read_back = (failure(store, tiny(), fault, way) for way in ("native", "readback"))
    assert in_graph == read_back


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize("taker", TAKERS)
def test_whoever_evaluates_gets_it_once(native: Any, tiny: Callable[..., Path], store: Path, taker: str):
    model, _, runtime = loaded(store, "native", routing="exact")
    for path in experts(store)[::2]:
        flip(path)
    with pytest.raises(ExpertReadError, match=r"layer \d+, expert \d+: digest is"):
        steps(model, TAKERS[taker])
    assert mx.array_equal(mx.arange(3) + 1, mx.array([1, 2, 3]))
    repair(store, tiny())
    state(runtime)
    fresh = steps(loaded(store, "readback", routing="exact")[0])
    runtime.reset()
    assert all(mx.array_equal(a, b) for a, b in zip(steps(model), fresh, strict=True))


def test_a_short_shard_of_a_checkpoint_in_place(native: Any, tiny: Callable[..., Path], tmp_path: Path):
    folder = Path(shutil.copytree(tiny(store=False), tmp_path / "checkpoint"))
    caught = []
    for way in ("native", "readback"):
        model, _, _ = loaded(folder, way, routing="exact")
        steps(model, tokens=2)
        shard = next(folder.glob("model*.safetensors"))
        whole = shard.read_bytes()
        os.truncate(shard, len(whole) // 3)
        with pytest.raises(ExpertReadError) as error:
            steps(model)
        caught.append(str(error.value))
        shard.write_bytes(whole)
        steps(model)
    assert caught[0] == caught[1]


def test_generate_raises_and_goes_on(native: Any, tiny: Callable[..., Path], store: Path):
    model, tokenizer, runtime = loaded(store, "native", routing="exact")
    told = mlx_lm.generate(model, tokenizer, "what is a fox", max_tokens=20)
    for path in experts(store)[1::2]:
        path.unlink()
    for _ in range(3):
        with pytest.raises(ExpertReadError, match="the file is missing"):
            mlx_lm.generate(model, tokenizer, "a", max_tokens=60)
        state(runtime)
    repair(store, tiny())
    assert mlx_lm.generate(model, tokenizer, "what is a fox", max_tokens=20) == told


def test_in_a_thread_that_is_not_the_main_one(native: Any, tiny: Callable[..., Path], store: Path):
    model, _, _ = loaded(store, "native", routing="exact")
    for path in experts(store)[::2]:
        flip(path)
    caught: list[BaseException] = []

    def work() -> None:
        with mx.stream(mx.new_stream(mx.cpu)):
            try:
                steps(model)
            except ExpertReadError as error:
                caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert len(caught) == 1
    repair(store, tiny())
    steps(model)


def test_steps_built_before_a_failure_do_not_run_after_it(native: Any, tiny: Callable[..., Path], store: Path):
    model, _, runtime = loaded(store, "native", routing="exact")
    for path in experts(store)[::2]:
        flip(path)
    late = [model(mx.array([[5 + token]])) for token in range(20)]
    with pytest.raises(ExpertReadError):
        mx.eval(late[10])
    before = state(runtime)
    repair(store, tiny())
    with pytest.raises(ExpertReadError):
        mx.eval(late[-1])
    assert state(runtime) == before
    steps(model)


def test_a_look_ahead_that_failed_is_dropped_by_draining(native: Any, tiny: Callable[..., Path], store: Path):
    model, _, runtime = loaded(store, "native", routing="exact")
    for path in experts(store):
        flip(path)
    with contextlib.suppress(ExpertReadError):  # the thread that queues hears of it if it is still queueing
        mx.async_eval(model(mx.array([[5]])))
    runtime.end_turn()
    assert not runtime.layers.native.failed
    repair(store, tiny())
    assert mx.isfinite(model(mx.array([[6]]))).all()


@contextlib.contextmanager
def last_layer_gone(store: Path, runtime: Any) -> Iterator[None]:
    """Hides the experts of the last layer: a step is queued whole before it fails."""
    folder = sorted((store / "experts").iterdir())[-1]
    folder.rename(store / "hidden")
    runtime.layers.native.reader.close()
    yield
    (store / "hidden").rename(folder)


def queue_a_failing_step(model: Any) -> None:
    """Queues a step that fails after it was queued whole; one that fails earlier is tried again."""
    for _ in range(100):
        busy = mx.ones((400, 400))
        with contextlib.suppress(ExpertReadError):
            mx.async_eval(busy @ busy @ busy @ busy)
            mx.async_eval(model(mx.array([[5]])))
            return
    pytest.skip("every step failed while it was being queued")


CHANGES: dict[str, Callable[[Any], Any]] = {
    "resize": lambda runtime: runtime.resize("50%"),
    "set_routing": lambda runtime: runtime.set_routing(routing="exact"),
    "use_decode": lambda runtime: runtime.use_decode("readback"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_tokens_does_not_swallow_a_failed_step(native: Any, store: Path, change: str):
    model, _, runtime = loaded(store, "native", routing="exact")
    with last_layer_gone(store, runtime):
        queue_a_failing_step(model)
        CHANGES[change](runtime)
    with pytest.raises(ExpertReadError):  # else the next call takes a token that was never computed
        model(mx.array([[6]]))
    assert mx.isfinite(model(mx.array([[6]]))).all()


def test_an_error_that_another_model_s_turn_got_ends_its_own_too(native: Any, tiny: Callable[..., Path], store: Path):
    model, _, runtime = loaded(store, "native", routing="exact")
    other, _, _ = loaded(tiny(), "native", routing="exact")
    with last_layer_gone(store, runtime):
        queue_a_failing_step(model)
        with contextlib.suppress(ExpertReadError):  # one stream: whoever waits for it next hears of it
            mx.eval(other(mx.array([[5]])))
    with pytest.raises(ExpertReadError):
        mx.eval(model(mx.array([[6]])))
    assert mx.isfinite(model(mx.array([[6]]))).all()
    assert mx.isfinite(other(mx.array([[6]]))).all()


def test_a_failed_look_ahead_throws_the_prompt_cache_away(native: Any, tiny: Callable[..., Path], store: Path):
    model, tokenizer, runtime = loaded(store, "native", routing="exact")
    talk = Session(model, tokenizer, Sampling(max_tokens=4))
    calls, hidden = [], contextlib.ExitStack()

    def begin() -> None:
        calls.append(1)
        if len(calls) == 6:  # the prompt, its last token, three more, and the step nobody takes
            mx.synchronize()
            hidden.enter_context(last_layer_gone(store, runtime))

    runtime.layers.counter.on_begin.append(begin)
    prompt = [5, 6, 7, 8]
    with hidden, contextlib.suppress(ExpertReadError):
        for _ in talk.answer(prompt):
            pass
    runtime.layers.counter.on_begin.remove(begin)
    assert talk._prompt_cache is None
    assert talk.last is not None
    follow = [*prompt, *talk.last.tokens, 9]
    fresh_model, tokenizer, _ = loaded(tiny(), "readback", routing="exact")
    fresh = Session(fresh_model, tokenizer, Sampling(max_tokens=4))
    for one in (talk, fresh):
        for _ in one.answer(follow):
            pass
    assert fresh.last is not None
    assert talk.last.tokens == fresh.last.tokens


@pytest.mark.parametrize("errors", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_hundreds_of_errors_leave_mlx_able_to_work(native: Any, tiny: Callable[..., Path], store: Path, errors: int):
    model, _, runtime = loaded(store, "native", routing="exact")
    for path in experts(store)[::2]:
        flip(path)

    def work() -> None:
        for _ in range(errors):
            with pytest.raises(ExpertReadError):  # steps fail while MLX still queues the later ones
                mx.eval(steps(model, lambda y: None, tokens=12))
            runtime.reset()
            assert native.active_tasks() == 0

    within(PATIENCE, work)
    repair(store, tiny())
    fresh = steps(loaded(store, "readback", routing="exact")[0])
    assert all(mx.array_equal(a, b) for a, b in zip(steps(model), fresh, strict=True))


def test_an_error_taken_while_queueing_leaves_no_task_open(native: Any, tiny: Callable[..., Path], store: Path):
    """MLX counts a task before it queues it, at one operation in ten: an error thrown there leaves it counted."""
    _, _, runtime = loaded(store, "native", routing="exact")
    for path in experts(store):
        flip(path)
    layer, row, later = runtime.layers.native.layers[0], mx.array([[0, 1, 2]], dtype=mx.uint32), mx.ones(3)
    for _ in range(25):
        layer.cache.counter.enter(0)
        with pytest.raises(ExpertReadError):
            mx.async_eval(layer.step(row).slots)
            ends = time.monotonic() + PATIENCE
            while not runtime.layers.native.failed:
                assert time.monotonic() < ends
            mx.eval(later + 1)
        runtime.reset()
        assert native.active_tasks() == 0


def test_a_damaged_file_that_was_replaced_is_read_anew(native: Any, tiny: Callable[..., Path], store: Path):
    model, _, runtime = loaded(store, "native", routing="exact")
    fresh = steps(model)
    runtime.reset()
    assert runtime.layers.native.reader.open_count > 0
    for path in experts(store):  # what is open stays the damaged file; its name leads to a whole one
        whole = path.read_bytes()
        flip(path)
        path.unlink()
        path.write_bytes(whole)
    assert all(mx.array_equal(a, b) for a, b in zip(steps(model), fresh, strict=True))


def test_ten_descriptors_are_enough(native: Any, tiny: Callable[..., Path]):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    model, _, runtime = loaded(tiny(), "native", routing="exact")
    try:
        held = {int(path.name) for path in Path("/dev/fd").iterdir()}
        room = [number for number in range(4096) if number not in held][:10]
        resource.setrlimit(resource.RLIMIT_NOFILE, (room[-1] + 1, hard))
        steps(model)
        assert 0 < runtime.layers.native.reader.open_count <= 10
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("io", ["cached", "direct"])
def test_a_read_that_stalls_keeps_its_slot_until_it_ends(native: Any, heavy: Path, io: str):
    model, _, runtime = loaded(heavy, "native", routing="exact", io=io)
    fresh = steps(model)
    runtime.reset()
    handles = [layer._handle for layer in runtime.layers.native.layers]
    for handle in handles:
        handle.stall_seconds = 1e-9
    with pytest.raises(ExpertReadError, match="no answer from the disk in 1e-09 s"):
        steps(model)
    for handle in handles:
        handle.stall_seconds = 60.0
    for cache in runtime.layers:
        cache.table.check()
    for _ in range(10_000):  # those reads end sometime, into slots that nobody was given
        runtime.drain()  # no step of the layer comes before: a prompt may be next, and Python reads for that
        if all(used < QUARANTINED for cache in runtime.layers for used in cache.table.used):
            break
    else:
        pytest.fail("a slot was never given back")
    runtime.reset()
    assert all(mx.array_equal(a, b) for a, b in zip(steps(model), fresh, strict=True))
