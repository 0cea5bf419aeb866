"""Faults in the middle of an answer: the turn ends with layer, expert and file, and the next answer is exact."""

import contextlib
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlx.core as mx
import mlx_lm
import pytest

import moe_mlx
from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.errors import ExpertReadError, UsageError
from moe_mlx.expert_cache.residency import QUARANTINED
from moe_mlx_convert import convert, upgrade
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.damage import FAULTS, experts, flip, repair


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4)
    convert(folder / "checkpoint", folder / "store")
    return folder / "store"


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "store"))


def session(folder: Path, **options) -> Session:
    model, tokenizer = moe_mlx.load(folder, expert_cache="25%", routing="exact", say=lambda line: None, **options)
    return Session(model, tokenizer, Sampling(max_tokens=12))


def ask(talk: Session, text: str) -> tuple[int, ...]:
    for _ in talk.answer(talk.encode([{"role": "user", "content": text}])):
        pass
    assert talk.last is not None
    return talk.last.tokens


@pytest.fixture(scope="module")
def nested(pristine: Path) -> Path:
    """The same model in a store of version 2."""
    upgrade(pristine, pristine.with_name("nested"), nested=True, row_blocks=2)
    return pristine.with_name("nested")


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_expert_of_version_2_ends_the_turn_and_only_the_turn(nested: Path, tmp_path: Path, fault: str):
    broken_and_repaired(Path(shutil.copytree(nested, tmp_path / "store")), nested, fault, "cached")


@pytest.mark.rows_by_day(5)
@pytest.mark.parametrize("io", ["cached", "direct"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_expert_ends_the_turn_and_only_the_turn(store: Path, pristine: Path, fault: str, io: str):
    broken_and_repaired(store, pristine, fault, io)


def broken_and_repaired(store: Path, pristine: Path, fault: str, io: str) -> None:
    talk = session(store, io=io)
    for path in experts(store):
        FAULTS[fault](path)
    with pytest.raises(ExpertReadError) as caught:
        ask(talk, "what is a fox")
    error = caught.value
    named = [int(part.rsplit("-")[-1]) for part in (error.path.parent.name, error.path.stem)]
    assert [error.layer, error.expert] == named
    assert str(error.path) in str(error)
    for cache in talk.runtime.layers:
        cache.table.check()
    repair(store, pristine)
    assert ask(talk, "what is a fox") == ask(session(pristine), "what is a fox")


@pytest.mark.parametrize("io", ["cached", "direct"])
def test_a_replaced_expert_is_found_by_its_digest(store: Path, io: str):
    talk = session(store, io=io)
    files = sorted((store / "experts" / "layer-001").glob("*.safetensors"))
    other = files[0].read_bytes()
    for path in files[1:]:
        path.write_bytes(other)
    with pytest.raises(ExpertReadError, match="digest"):
        ask(talk, "what is a fox")


@pytest.mark.parametrize("io", ["cached", "direct"])
def test_a_stalled_read_ends_the_turn_and_its_slot_waits(
    store: Path, pristine: Path, io: str, monkeypatch: pytest.MonkeyPatch
):
    talk = session(store, decode="readback", io=io)
    source, release = talk.runtime.source, threading.Event()
    read_into = source.read_into

    def stall(index: int, expert: int, buffers) -> int:
        release.wait(30)
        return read_into(index, expert, buffers)

    monkeypatch.setattr(talk.runtime.layers.pool, "stall_seconds", 0.05)
    monkeypatch.setattr(source, "read_into", stall)
    with pytest.raises(ExpertReadError, match=r"no answer from the disk in 0\.05 s"):
        ask(talk, "what is a fox")
    assert all(cache.table.owner[slot] < 0 for cache in talk.runtime.layers for slot in range(cache.table.slots))
    release.set()
    talk.runtime.layers.pool.close()
    talk.runtime.layers.pool.__init__(source)  # type: ignore[misc]
    assert ask(talk, "what is a fox") == ask(session(pristine), "what is a fox")


def test_an_interrupt_during_a_miss_leaves_no_half_filled_slot(
    store: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch
):
    import moe_mlx.expert_cache.reading as reading

    talk = session(store, decode="readback")
    original, calls = reading.wait, []

    def interrupted(futures, timeout=None):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(futures, timeout)

    monkeypatch.setattr(reading, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(talk, "what is a fox")
    for cache in talk.runtime.layers:
        cache.table.check()
    assert ask(talk, "what is a fox") == ask(session(pristine), "what is a fox")


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("seed", range(2))
def test_an_interrupt_at_any_line_leaves_no_mark(store: Path, pristine: Path, seed: int):
    """Readers are slow, so that most lines are run while some of them write."""
    talk = session(store, decode="readback")
    tables = [cache.table for cache in talk.runtime.layers]
    read_into, chance, texts = talk.runtime.source.read_into, random.Random(seed), ("what is a fox, " * 5, "why")
    fresh = session(pristine)
    expected = []
    for text in texts:
        fresh.forget()
        expected.append(ask(fresh, text))
    parts = ("residency.py", "eviction.py", "layer.py", "prefill.py", "reading.py", "switch.py", "slots.py", "steps.py")
    seen, at, fell = [0], [0], 0

    def slow(index: int, expert: int, buffers) -> int:
        time.sleep(0.001)
        return read_into(index, expert, buffers)

    def line(frame, event, arg):
        if event == "line":
            seen[0] += 1
            if seen[0] == at[0]:
                raise KeyboardInterrupt
        return line

    def call(frame, event, arg):
        ours = frame.f_code.co_filename.endswith(parts) and "moe_mlx" in frame.f_code.co_filename
        return line if ours and frame.f_code.co_name != "give_up" else None  # a lock is not given back by a raise there

    def interrupted(number: int) -> bool:
        """Answers anew, with an interrupt at line `number` (0: at none); whether it ended the turn."""
        talk.forget()
        moe_mlx.reset(talk.model)
        seen[0], at[0] = 0, number
        sys.settrace(call)
        try:
            ask(talk, texts[0])
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    assert not interrupted(0)
    lines = seen[0] * 9 // 10  # how many an answer takes differs a little from run to run
    assert lines > 1000
    talk.runtime.source.read_into = slow  # type: ignore[method-assign]
    for _ in range(5):
        fell += interrupted(chance.randrange(1, lines))
        for text, tokens in zip(texts, expected, strict=True):
            talk.forget()
            assert ask(talk, text) == tokens
        for table in tables:
            table.check()
    assert fell == 5, "every interrupt fell, and ended its turn"


def test_reads_left_behind_by_their_turn_are_waited_for(store: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch):
    """The pool fails in the middle of an event (no more threads, say), while what it began goes on."""
    talk = session(store, decode="readback")
    talk.runtime.resize("75%")  # at least three reads at once
    source, release, begun = talk.runtime.source, threading.Event(), threading.Semaphore(0)
    read_into, submit, calls = source.read_into, talk.runtime.layers.pool._threads.submit, []

    def late(index: int, expert: int, buffers) -> int:
        begun.release()
        release.wait(30)
        return read_into(index, expert, buffers)

    def failing(*args):
        calls.append(1)
        if len(calls) == 3:  # a read that has not begun by then never does
            assert begun.acquire(timeout=30)
            assert begun.acquire(timeout=30)
            raise RuntimeError("can't start new thread")
        return submit(*args)

    monkeypatch.setattr(source, "read_into", late)
    monkeypatch.setattr(talk.runtime.layers.pool._threads, "submit", failing)
    monkeypatch.setattr(talk.runtime.layers.pool, "stall_seconds", 0.05)
    with pytest.raises(RuntimeError, match="new thread"):
        ask(talk, "what is a fox")
    held = [slot for cache in talk.runtime.layers for slot in cache.table.used if slot == QUARANTINED]
    assert len(held) == 2  # they are still being written to
    release.set()
    monkeypatch.setattr(source, "read_into", read_into)
    monkeypatch.setattr(talk.runtime.layers.pool, "stall_seconds", 60.0)
    talk.runtime.layers.pool.wait_idle()
    assert not [slot for cache in talk.runtime.layers for slot in cache.table.used if slot == QUARANTINED]
    assert ask(talk, "what is a fox") == ask(session(pristine), "what is a fox")


def test_a_second_thread_in_the_middle_of_an_answer_is_refused(store: Path, pristine: Path):
    talk = session(store, decode="readback")
    source, reading, release = talk.runtime.source, threading.Event(), threading.Event()
    read_into = source.read_into

    def slow(index: int, expert: int, buffers) -> int:
        reading.set()
        release.wait(30)
        return read_into(index, expert, buffers)

    source.read_into = slow  # type: ignore[method-assign]
    told: list[BaseException] = []

    def first() -> None:
        try:
            mlx_lm.generate(talk.model, talk.tokenizer, "what is a fox", max_tokens=9)
        except UsageError as error:
            told.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    assert reading.wait(30)
    with pytest.raises(UsageError, match="another thread"):
        mlx_lm.generate(talk.model, talk.tokenizer, "tell me more", max_tokens=9)
    release.set()
    thread.join(30)
    assert len(told) == 1  # its call was cut in two
    source.read_into = read_into  # type: ignore[method-assign]
    assert ask(talk, "what is a fox") == ask(session(pristine), "what is a fox")


@pytest.mark.parametrize("decode", ["readback", "auto"])
def test_two_threads_get_the_right_answer_or_none(store: Path, pristine: Path, decode: str):
    talk, fresh = session(store, decode=decode), session(pristine)
    texts = ("what is a fox", "tell me more")
    right = [mlx_lm.generate(fresh.model, fresh.tokenizer, text, max_tokens=20) for text in texts]
    answers: list[tuple[str, str]] = []

    def talking(text: str, expected: str) -> None:
        for _ in range(5):
            with contextlib.suppress(UsageError, RuntimeError):  # the latter: MLX, on work of another thread's stream
                answers.append((mlx_lm.generate(talk.model, talk.tokenizer, text, max_tokens=20), expected))

    threads = [threading.Thread(target=talking, args=pair) for pair in zip(texts, right, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(said == expected for said, expected in answers)
    for text, expected in zip(texts, right, strict=True):
        assert mlx_lm.generate(talk.model, talk.tokenizer, text, max_tokens=20) == expected
    for cache in talk.runtime.layers:
        cache.table.check()


def test_stopping_accounts_for_the_step_in_flight(store: Path):
    talk = session(store)
    stop = threading.Event()
    prompt = talk.encode([{"role": "user", "content": "what is a fox"}])
    for count, _ in enumerate(talk.answer(prompt, stop=stop)):
        if count == 3:
            stop.set()
    assert talk.last is not None
    assert talk.last.finish_reason == "cancelled"
    assert len(talk.last.tokens) == 4
    assert talk.last.decode.steps == len(talk.last.tokens) + talk.last.discarded_steps
    assert talk._prompt_cache is not None
    assert talk._prompt_cache[0].offset == len(talk._held)


def test_totals_equal_the_bytes_the_reader_was_asked_for(store: Path, monkeypatch: pytest.MonkeyPatch):
    talk = session(store, decode="readback")
    asked: list[int] = []
    read_into = talk.runtime.source.read_into

    def counted(index: int, expert: int, buffers) -> int:
        asked.append(read_into(index, expert, buffers))
        return asked[-1]

    monkeypatch.setattr(talk.runtime.source, "read_into", counted)
    for text in ("what is a fox", "and a much longer question about many things " * 4):
        ask(talk, text)
    stats = talk.runtime.stats
    assert stats.decode.bytes_read + stats.prefill.bytes_read == sum(asked) > 0
    assert stats.decode.misses + stats.prefill.misses == len(asked)


def test_a_low_descriptor_limit_is_enough(store: Path):
    program = (
        "import mlx_lm, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))\n"
        "import moe_mlx.cli; sys.exit(moe_mlx.cli.main(sys.argv[1:]))"
    )
    words = ["generate", "--model", str(store), "--routing", "exact", "--expert-cache", "25%", "-m", "12", "--json"]
    command = [sys.executable, "-c", program, *words, "-p", "what is a fox"]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert tuple(json.loads(run.stdout)["tokens"]) == ask(session(store), "what is a fox")


def test_reset_reproduces_a_lossy_answer(store: Path):
    model, tokenizer = moe_mlx.load(store, expert_cache="25%", routing="cache-prior", route_lambda=0.5, say=print)
    talk = Session(model, tokenizer, Sampling(max_tokens=20))

    def fresh() -> tuple[int, ...]:
        talk.forget()
        moe_mlx.reset(model)
        return ask(talk, "tell me something")

    first, counts = fresh(), moe_mlx.stats(model).decode
    assert (fresh(), moe_mlx.stats(model).decode.hits) == (first, counts.hits)
    assert counts.swapped > 0
    mx.synchronize()


@pytest.mark.parametrize("cap", ["100%", "75%"])
def test_an_expert_that_cannot_be_reread_when_the_cap_grows(store: Path, pristine: Path, cap: str):
    talk = session(store)
    ask(talk, "what is a fox")
    for path in experts(store):
        flip(path)
    talk.runtime.resize(cap)
    assert talk.runtime.plan.slots == talk.runtime.plan_for(cap).slots
    assert talk.runtime.slots_per_layer == list(talk.runtime.plan.slots)
    with pytest.raises(ExpertReadError):  # an empty slot is never taken for its expert
        ask(talk, "tell me more")
    repair(store, pristine)
    assert ask(talk, "what is a fox") == ask(session(pristine), "what is a fox")
    talk.runtime.resize(cap)
    assert all(cache.full == (cap == "100%") for cache in talk.runtime.layers)
    assert ask(talk, "what is a fox") == ask(session(pristine), "what is a fox")
