"""The plan agrees with the loader, and knows a hub repository from its headers alone."""

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.errors import StoreMissingError, UsageError
from moe_mlx.planning.chips import chip_named
from moe_mlx.planning.forecast import plan_caps, usable_memory
from moe_mlx.planning.hub_headers import hub_shape
from moe_mlx.planning.prediction import Rates, assumed_miss_rate, step_time
from moe_mlx.planning.shape import local_shape
from moe_mlx.rig.random_store import Shape, make_checkpoint
from moe_mlx.system.calibration import store_calibration
from moe_mlx.system.memory import recommended_bytes
from tests.fake_hub import FakeHub

M4_PRO = Rates.of_chip(chip_named("Apple M4 Pro"), "native")


@pytest.mark.parametrize("cap", ["25%", "50%", "100%", "auto"])
def test_slots_are_the_loader_s(store: Path, checkpoint: Path, cap: str):
    for folder in (store, checkpoint):
        model, _ = moe_mlx.load(folder, expert_cache=cap, decode="readback", say=lambda line: None)
        runtime = moe_mlx.runtime_of(model)
        kv_cache = runtime.plan.kv_cache
        lines = plan_caps(local_shape(folder), recommended_bytes(), M4_PRO, kv_cache=kv_cache, caps=[cap])
        assert list(lines[0].slots) == runtime.slots_per_layer
        assert lines[0].expert_cache == runtime.expert_cache_bytes == runtime.plan.expert_cache
        assert lines[0].total == pytest.approx(runtime.plan.total, rel=0.1)  # what is free moves between the two
        runtime.close()


def test_the_store_and_its_checkpoint_have_one_shape(store: Path, checkpoint: Path):
    one, other = local_shape(store), local_shape(checkpoint)
    assert (one.layers, one.resident_nbytes) == (other.layers, other.resident_nbytes)
    assert one.active_nbytes == other.active_nbytes < one.resident_nbytes + one.experts_nbytes


def test_a_step_takes_what_its_bytes_take(store: Path):
    shape = local_shape(store)
    step = step_time(shape, Rates("x", 1e9, 1e8, 1e-6, ""), 0.5)
    assert step.weights == pytest.approx(shape.active_nbytes / 1e9)
    chosen = sum(layer.top_k * layer.expert_nbytes for layer in shape.layers)
    assert step.reads == pytest.approx(0.5 * chosen / 1e8)
    assert step.layers == pytest.approx(len(shape.layers) * 1e-6)
    assert step.bottleneck == "disk reads"
    assert step.tps == pytest.approx(1 / (step.weights + step.reads + step.layers))


def test_miss_rates_fall_with_residency_and_follow_what_was_measured():
    rates = [assumed_miss_rate(share / 20, lossy=False) for share in range(21)]
    assert rates == sorted(rates, reverse=True) and rates[-1] == 0
    assert assumed_miss_rate(0.5, lossy=True) < assumed_miss_rate(0.5, lossy=False)
    assert assumed_miss_rate(0.5, lossy=True, known=[(0.5, 0.2)]) == pytest.approx(0.2)


def test_the_command_names_the_bottleneck(store: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", str(store), "--chip", "m1", "--memory", "16GB", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["available_bytes"] == usable_memory(16 * 10**9)
    assert {line["bottleneck"] for line in found["caps"]} <= {"memory bandwidth", "disk reads", "layer overhead"}
    assert main(["plan", str(store), "--chip", "m1"]) == 0
    assert "a guess, not a measurement" in capsys.readouterr().out


def test_nothing_fits(store: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", str(store), "--available", "1kB"]) == 4
    assert "nothing fits" in capsys.readouterr().err


def test_calibrated(store: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", str(store), "--calibrated"]) == 2
    assert "not calibrated" in capsys.readouterr().err
    store_calibration(weight_rate=1e9)
    assert main(["plan", str(store), "--calibrated"]) == 2
    store_calibration(cold_rate=1e8)
    assert main(["plan", str(store), "--calibrated"]) == 0
    assert "this machine" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--chip", "z80"],
        ["--miss-rate", "2"],
        ["--memory", "much"],
        ["--measured", "no.json"],
        ["--memory", "16"],
        ["--memory", "16GB", "--available", "9GB"],
        ["--max-kv-size", "0"],
    ],
)
def test_arguments_that_cannot_be_taken(store: Path, words: list[str]):
    assert main(["plan", str(store), *words]) == 2


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of several megabytes, so that a header is a small part of each."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    make_checkpoint(Shape(2, 16, 2, 256, 192, 2, 1, 32, 256), folder)
    return folder


@pytest.fixture
def hub(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    fake = FakeHub(large, "some/model")
    yield fake
    fake.close()


def test_a_hub_repository_is_known_from_its_headers(large: Path, hub: FakeHub):
    here, there = local_shape(large), hub_shape("some/model", api=HfApi(endpoint=hub.endpoint, token=False))
    assert [layer.tensors for layer in there.layers] == [layer.tensors for layer in here.layers]
    assert there.resident_nbytes == here.resident_nbytes
    assert there.active_nbytes == here.active_nbytes
    assert not [name for name in hub.whole if name.endswith(".safetensors")], "weights were downloaded"
    given = sum(count for name, count in hub.given.items() if name.endswith(".safetensors"))
    assert given <= 3 * 100_001 < sum(path.stat().st_size for path in large.glob("*.safetensors")) / 4


def test_a_repository_that_is_not_there(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "folder", tmp_path)
    with pytest.raises(StoreMissingError, match="some/model"):
        hub_shape("some/model", api=HfApi(endpoint=hub.endpoint, token=False))


def test_a_store_on_the_hub(store: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "folder", store)
    here, there = local_shape(store), hub_shape("some/model", api=HfApi(endpoint=hub.endpoint, token=False))
    assert (there.layers, there.resident_nbytes, there.form) == (here.layers, here.resident_nbytes, "store on the hub")
    assert not [name for name in hub.given if name.endswith(".safetensors")]


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waits between attempts"))
    with pytest.raises(StoreMissingError, match="some/model"):
        hub_shape("some/model", api=HfApi(endpoint="http://127.0.0.1:9", token=False))


def test_chips():
    assert chip_named("m4-pro").ratio == pytest.approx(45.5)
    with pytest.raises(UsageError):
        chip_named("pentium")
