"""The generating thread: whatever one answer runs into, the others and the next ones are answered."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.errors import ExpertReadError
from moe_mlx.serving import answer_steps
from moe_mlx.serving.engine import Engine
from moe_mlx.serving.job import Drawing, Ended, Failed, Job, Said
from moe_mlx.serving.limits import Limits
from moe_mlx.serving.refusal import RefusalError
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.serving.engines import CheckpointOpening, answered, listening, over


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("model"), quantization=AFFINE4)


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    engine = Engine(CheckpointOpening(checkpoint), Limits(waiting=6, at_once=4))
    engine.start()
    yield engine
    engine.stop()


def job(engine: Engine, text: str = "what is a fox", tokens: int = 8, **more: Any) -> Job:
    assert engine.loaded is not None
    return Job(list(engine.loaded.tokenizer.encode(text)), Drawing(tokens, **more), lambda event: None)


def test_answers_made_together_are_those_made_alone(engine: Engine):
    texts = ["what is a fox", "a", "and a rather longer question about foxes", "0123456789"]
    alone = [answered(engine, job(engine, text)) for text in texts]
    jobs = [job(engine, text) for text in texts]
    heard = [listening(one) for one in jobs]
    engine.submit(*jobs)
    assert all(isinstance(over(events), Ended) for events in heard)
    assert [one.tokens for one in jobs] == alone
    assert max(one.shared_by for one in jobs) > 1


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), RuntimeError("x"), MemoryError(), ZeroDivisionError()]
)
def test_an_exception_of_one_answer_ends_that_answer_alone(
    engine: Engine, error: Exception, monkeypatch: pytest.MonkeyPatch
):
    expected = answered(engine, job(engine))
    bad, good = job(engine, "a bad one"), job(engine)
    plain = answer_steps.AnswerSteps.drawn

    def drawn(self: Any, one: Job, drawn: Any) -> bool:
        if one is bad and len(one.tokens) == 3:
            raise error
        return plain(self, one, drawn)

    monkeypatch.setattr(answer_steps.AnswerSteps, "drawn", drawn)
    heard = [listening(bad), listening(good)]
    engine.submit(bad, good)
    failed = over(heard[0])
    assert isinstance(failed, Failed) and failed.refusal.status in (500, 503)
    assert isinstance(over(heard[1]), Ended)
    assert good.tokens == expected
    assert engine.alive


def test_a_step_that_fails_for_several_is_tried_one_by_one(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    expected = answered(engine, job(engine))
    bad, good = job(engine, "a bad one", 30), job(engine, tokens=8)
    assert engine.loaded is not None
    model = type(engine.loaded.model)
    plain, met = model.__call__, []

    def call(self: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        running = engine.jobs
        if bad in running and len(bad.tokens) >= 3:
            met.append(len(running))
            raise ExpertReadError(1, 2, Path("/somewhere/else/expert-002.safetensors"), "cut short")
        return plain(self, inputs, *args, **options)

    monkeypatch.setattr(model, "__call__", call)
    heard = [listening(bad), listening(good)]
    engine.submit(bad, good)
    failed = over(heard[0])
    assert isinstance(failed, Failed) and failed.refusal.status == 500
    assert "layer 1, expert 2" in failed.refusal.message and "expert-002.safetensors" in failed.refusal.message
    assert "/somewhere" not in failed.refusal.message
    assert isinstance(over(heard[1]), Ended)
    assert met[0] == 2 and met[-1] == 1
    assert good.tokens == expected


def test_whoever_leaves_stops_costing(engine: Engine):
    gone = job(engine, tokens=1500)
    heard = listening(gone)
    engine.submit(gone)
    while not isinstance(heard.get(timeout=60), Said):
        pass
    gone.cancel()
    assert answered(engine, job(engine))
    assert len(gone.tokens) < 200
    assert engine.running == 0


def test_a_full_queue_turns_away_and_takes_again(engine: Engine):
    long = job(engine, tokens=2000, seed=1)
    engine.submit(long)
    while not long.tokens:
        time.sleep(0.01)
    waiting = [job(engine, tokens=1) for _ in range(6)]
    engine.submit(*waiting)
    with pytest.raises(RefusalError) as refused:
        engine.submit(job(engine))
    assert refused.value.status == 429 and refused.value.headers["retry-after"]
    for one in [long, *waiting]:
        one.cancel()
    assert answered(engine, job(engine))


def test_answers_under_way_and_kept_prompts_stay_within_the_plan(engine: Engine):
    assert engine.loaded is not None and engine.kept is not None
    room = engine.loaded.room
    half = room.planned // 2
    jobs = [job(engine, "a fox " * 20, half) for _ in range(3)]
    heard = [listening(one) for one in jobs]
    engine.submit(*jobs)
    while not isinstance(heard[0].get(timeout=60), Said):
        pass
    assert engine.running == 1  # two of them, as long as they may get, would be more than the plan has
    for one in jobs:
        one.cancel()
    for number in range(12):
        answered(engine, job(engine, f"{number} is a number that nobody has asked about before"))
        assert engine.kept.nbytes <= room.planned * room.token_nbytes
