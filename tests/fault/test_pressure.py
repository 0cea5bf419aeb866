"""Memory pressure between tokens: the cap shrinks to its floor, refuses there, grows back; answers stay exact."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import moe_mlx
from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.errors import DoesNotFitError
from moe_mlx.loading import pressure
from moe_mlx.loading.pressure import CALM_SECONDS, PressureWatch, psi_some
from moe_mlx.loading.runtime import Runtime
from tests.checkpoints import AFFINE4, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("model"), quantization=AFFINE4)


class Weather:
    """Pressure and time as a test wants them."""

    def __init__(self) -> None:
        self.pressure: bool | None = False
        self.now = 0.0

    def clock(self) -> float:
        self.now += 5.0
        return self.now


def open_session(checkpoint: Path, tokens: int) -> tuple[Session, PressureWatch, Weather, list[str]]:
    model, tokenizer = moe_mlx.load(checkpoint, expert_cache="75%", routing="exact", say=lambda line: None)
    weather, said = Weather(), []
    watch = PressureWatch(moe_mlx.runtime_of(model), said.append, lambda: weather.pressure, weather.clock)
    talk = Session(model, tokenizer, Sampling(max_tokens=tokens), between_tokens=watch.between_tokens)
    return talk, watch, weather, said


def test_the_cap_shrinks_and_grows_back_in_the_middle_of_an_exact_answer(checkpoint: Path):
    talk, _, weather, said = open_session(checkpoint, 60)
    prompt = talk.encode([{"role": "user", "content": "what is a fox"}])
    asked = talk.runtime.slots_per_layer
    seen = []
    for count, _ in enumerate(talk.answer(prompt)):
        weather.pressure = 5 <= count < 8
        seen.append(talk.runtime.slots_per_layer[0])
    assert min(seen) < asked[0]
    assert talk.runtime.slots_per_layer == asked
    assert any("memory pressure" in line for line in said)
    assert any("over" in line for line in said)
    assert talk.last is not None
    calm = open_session(checkpoint, 60)[0]
    for _ in calm.answer(prompt):
        pass
    assert calm.last is not None
    assert talk.last.tokens == calm.last.tokens


def test_at_the_floor_it_refuses_and_the_session_stays_usable(checkpoint: Path):
    talk, watch, weather, _ = open_session(checkpoint, 40)
    prompt = talk.encode([{"role": "user", "content": "what is a fox"}])
    weather.pressure = True
    with pytest.raises(DoesNotFitError, match="floor"):
        for _ in talk.answer(prompt):
            pass
    assert talk.runtime.slots_per_layer == [layer.top_k for layer in talk.runtime.source.layers]
    weather.pressure = False
    weather.now += CALM_SECONDS
    watch.between_tokens()
    for _ in talk.answer(prompt):
        pass
    assert talk.last is not None
    assert talk.last.tokens


@pytest.mark.parametrize("batched", [True, False])
def test_a_server_s_steps_look_for_pressure_too(checkpoint: Path, batched: bool, monkeypatch: pytest.MonkeyPatch):
    from moe_mlx.serving import answering
    from moe_mlx.serving.engine import Engine
    from moe_mlx.serving.job import Drawing, Job
    from moe_mlx.serving.limits import Limits
    from tests.serving.engines import CheckpointOpening, answered

    weather, said, watches = Weather(), [], []

    def watch(runtime: Runtime, say: object) -> PressureWatch:
        watches.append(PressureWatch(runtime, say_and_calm, lambda: weather.pressure, weather.clock))
        return watches[-1]

    def say_and_calm(line: str) -> None:
        said.append(line)
        weather.pressure = True if len(said) < 2 else None  # then neither short nor plenty

    monkeypatch.setattr(answering, "PressureWatch", watch)
    server = Engine(CheckpointOpening(checkpoint), Limits())
    server.start()
    try:
        assert server.loaded is not None
        runtime, weather.pressure = server.loaded.runtime, True
        asked = runtime.slots_per_layer
        prompt = list(server.loaded.tokenizer.encode("what is a fox"))
        tokens = answered(server, Job(prompt, Drawing(6), lambda event: None, alone=not batched))
        assert len(said) == 2
        assert runtime.slots_per_layer < asked
    finally:
        server.stop()
    calm = open_session(checkpoint, 6)[0]
    for _ in calm.answer(prompt):
        pass
    assert calm.last is not None
    assert tuple(tokens) == calm.last.tokens


@pytest.mark.parametrize("family", ["qwen3_moe", "phimoe", "llama4"])  # top_k 3, 2 and 1
def test_it_grows_back_from_any_floor(tmp_path: Path, family: str):
    talk, watch, weather, said = open_session(tiny_checkpoint(family, tmp_path / family), 1)
    asked = talk.runtime.slots_per_layer
    weather.pressure = True
    with pytest.raises(DoesNotFitError, match="floor"):
        for _ in range(20):
            watch.between_tokens()
    assert talk.runtime.slots_per_layer == [layer.top_k for layer in talk.runtime.source.layers]
    weather.pressure, steps = False, len(said)
    for _ in range(100):
        watch.between_tokens()
    assert talk.runtime.slots_per_layer == asked
    assert len(said) - steps < 12


def test_it_shrinks_where_nothing_at_all_is_left(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    talk, watch, weather, said = open_session(checkpoint, 1)
    asked = talk.runtime.slots_per_layer
    monkeypatch.setattr("moe_mlx.system.memory.recommended_bytes", lambda: 0)
    weather.pressure = True
    watch.between_tokens()
    assert talk.runtime.slots_per_layer < asked
    assert len(said) == 1
    weather.pressure = False
    for _ in range(20):
        watch.between_tokens()
    assert talk.runtime.slots_per_layer < asked  # a larger one has no room


def test_psi_is_read_and_its_absence_is_calm(tmp_path: Path):
    file = tmp_path / "memory"
    file.write_text(
        "some avg10=12.50 avg60=3.00 avg300=1.00 total=99\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    )
    assert psi_some(file) == 12.5
    assert psi_some(tmp_path / "none") == 0.0


def test_a_warning_of_macos_is_one_step_in_a_while_and_ends_no_answer(checkpoint: Path):
    _, watch, weather, said = open_session(checkpoint, 1)
    watch.warning, weather.pressure = (lambda: True), True
    for _ in range(7):  # every 5 seconds
        watch.between_tokens()
    assert len(said) == 2
    for _ in range(100):
        watch.between_tokens()
    floor = [layer.top_k for layer in watch.runtime.source.layers]
    assert watch.runtime.slots_per_layer == floor


def test_a_critical_level_has_to_last(checkpoint: Path):
    _, watch, weather, _ = open_session(checkpoint, 1)
    watch.patience, weather.pressure = (lambda: 12.0), True
    floor = [layer.top_k for layer in watch.runtime.source.layers]
    while watch.runtime.slots_per_layer != floor:
        watch.between_tokens()
    watch.between_tokens()  # the floor is met
    weather.pressure = None
    watch.between_tokens()  # and left in peace: what comes next has to last anew
    weather.pressure = True
    for _ in range(3):
        watch.between_tokens()
    with pytest.raises(DoesNotFitError, match="floor"):
        watch.between_tokens()


@pytest.mark.parametrize(("level", "warns"), [(1, False), (2, True), (4, False)])
def test_which_level_only_asks(level: int, warns: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pressure, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(pressure, "read_sysctl", lambda name: level.to_bytes(4, "little"))
    assert pressure.only_a_warning() is warns
    assert pressure.patience() == pressure.LASTING_SECONDS


def test_elsewhere_pressure_is_no_warning():
    assert not pressure.only_a_warning()
    assert pressure.patience() == 0
