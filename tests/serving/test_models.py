"""What a client may name, and what happens to the model that is there when it names another one."""

import http.client
import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_mlx.errors import DoesNotFitError, StoreCorruptError
from moe_mlx.serving.engine import Engine
from moe_mlx.serving.health import state_of
from moe_mlx.serving.job import Drawing, Ended, Failed, Job
from moe_mlx.serving.limits import Limits
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.serving.engines import CheckpointOpening, listening, over
from tests.serving.running import Running, served, user


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_checkpoint("qwen3_moe", folder / "first", quantization=AFFINE4)
    tiny_checkpoint("olmoe", folder / "second", quantization=AFFINE4)
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[CheckpointOpening, CheckpointOpening]:
    return CheckpointOpening(folder / "first"), CheckpointOpening(folder / "second")


@pytest.fixture
def engine(pair: tuple[CheckpointOpening, CheckpointOpening]) -> Iterator[Engine]:
    engine = Engine(pair[0], Limits())
    engine.start()
    yield engine
    engine.stop()
    for opening in pair:
        opening.unfit, opening.before_open = None, lambda: None


PROMPT = list(range(40, 60))


def asked(engine: Engine, opening: CheckpointOpening, tokens: int = 8) -> Job | Failed:
    job = Job(PROMPT, Drawing(tokens), lambda event: None, opening=opening)
    events = listening(job)
    engine.submit(job)
    end = over(events)
    return job if isinstance(end, Ended) else end


def tokens_of(engine: Engine, opening: CheckpointOpening) -> list[int]:
    job = asked(engine, opening)
    assert isinstance(job, Job), job
    return job.tokens


def test_answers_of_several_models_are_each_model_s_own(
    engine: Engine, pair: tuple[CheckpointOpening, CheckpointOpening]
):
    first, second = pair
    expected = tokens_of(engine, first)
    assert engine.loaded is not None
    model = weakref.ref(engine.loaded.model)
    other = tokens_of(engine, second)
    assert other != expected and model() is None  # not both in memory
    assert (tokens_of(engine, first), tokens_of(engine, second)) == (expected, other)
    assert engine.tally.changes == 3 and engine.opening is second


@pytest.mark.slow
def test_what_is_under_way_is_finished_first_and_nobody_overtakes(
    engine: Engine, pair: tuple[CheckpointOpening, CheckpointOpening]
):
    jobs = [Job(PROMPT, Drawing(30), lambda event: None, opening=one) for one in (pair[0], pair[1], pair[0])]
    heard = [listening(job) for job in jobs]
    engine.submit(*jobs)
    assert all(isinstance(over(events), Ended) for events in heard)
    assert [len(job.tokens) for job in jobs] == [30, 30, 30]
    assert jobs[0].tokens == jobs[2].tokens and engine.tally.changes == 2


@pytest.mark.parametrize(
    ("error", "status"), [(StoreCorruptError("/some/where: damaged"), 500), (DoesNotFitError("too large"), 503)]
)
def test_one_that_cannot_be_loaded_leaves_the_other_where_it_is(
    engine: Engine, pair: tuple[CheckpointOpening, CheckpointOpening], error: DoesNotFitError, status: int
):
    first, second = pair
    expected, opened = tokens_of(engine, first), first.opened
    loaded = engine.loaded
    second.unfit = error
    end = asked(engine, second)
    assert isinstance(end, Failed) and end.refusal.status == status and "/some" not in end.refusal.message
    assert engine.loaded is loaded and first.opened == opened
    assert tokens_of(engine, first) == expected
    assert state_of(engine) == "ok" and engine.tally.failed_in_a_row == 0


def test_weights_that_turn_out_unreadable_bring_the_first_back(
    engine: Engine, pair: tuple[CheckpointOpening, CheckpointOpening]
):
    first, second = pair
    expected = tokens_of(engine, first)

    def broken() -> None:
        raise OSError("the drive is gone")

    second.before_open = broken
    assert isinstance(asked(engine, second), Failed)
    assert engine.opening is first and tokens_of(engine, first) == expected
    first.before_open = broken
    assert isinstance(asked(engine, second), Failed)
    assert engine.loaded is None and state_of(engine) == "failing"
    first.before_open = lambda: None
    assert tokens_of(engine, first) == expected
    assert state_of(engine) == "ok"


@pytest.fixture(scope="module")
def several(folder: Path) -> Iterator[Running]:
    words = ("--model", str(folder / "first"), "--expert-cache", "75%", "--routing", "exact", "--decode", "readback")
    with served(
        "--max-tokens", "8", "--alias", "one", "--allow-models", f"{folder / 'second'},demo", model=words
    ) as one:
        yield one


def test_a_client_names_models_and_no_places(several: Running, folder: Path):
    listed = json.loads(several.ask("/v1/models")[2])
    assert [row["id"] for row in listed["data"]] == ["one", "first", "second", "demo"]
    assert str(folder) not in json.dumps(listed)
    texts = {name: several.said("what is a fox", model=name) for name in ("one", "second", "demo", "first")}
    assert texts["one"] == texts["first"] and len(set(texts.values())) == 3
    assert several.chat("hello", model="second")["model"] == "second"
    assert several.health()["model"] == "second"
    metrics = several.ask("/metrics")[2].decode()
    assert "moe_mlx_model_changes_total 4.0" in metrics
    (folder / "third").mkdir(exist_ok=True)
    (folder / "a-file").write_text("")
    said = set()
    for name in (str(folder / "second"), str(folder / "third"), str(folder / "a-file"), "/no/such", "../second"):
        status, _, body = several.ask("/v1/chat/completions", {"messages": [user("hi")], "model": name})
        assert status == 404
        said.add(body.decode().replace(json.dumps(name)[1:-1], "NAME"))
    assert len(said) == 1
    assert several.health()["model"] == "second"


def test_a_model_that_is_gone_since_is_told_as_any_other_trouble(several: Running, folder: Path):
    expected = several.said("what is a fox", model="one")
    (folder / "second").rename(folder / "elsewhere")
    try:
        status, _, body = several.ask("/v1/chat/completions", {"messages": [user("hi")], "model": "second"})
    finally:
        (folder / "elsewhere").rename(folder / "second")
    assert status == 500 and str(folder) not in body.decode()
    assert several.said("what is a fox", model="one") == expected and several.health()["status"] == "ok"


def test_whoever_watches_is_told_of_the_other_model(several: Running):
    several.said("hello", model="one")
    connection = http.client.HTTPConnection("127.0.0.1", several.port, timeout=120)
    connection.request("GET", "/v1/experts")
    lines = iter(connection.getresponse().readline, b"")

    def next_facts() -> str:
        for line in lines:
            if line == b"event: facts\n":
                return str(json.loads(next(lines).removeprefix(b"data: "))["family"])
        raise AssertionError("the stream has ended")

    try:
        assert next_facts() == "qwen3_moe"
        several.said("hello", model="second")
        assert next_facts() == "olmoe"
    finally:
        connection.close()
