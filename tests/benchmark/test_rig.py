"""The rig: refuses where it cannot run, leaves nothing behind, and holds a model larger than its limit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx_lm
import pytest

from moe_mlx.cli import main
from moe_mlx.errors import UsageError
from moe_mlx.rig import cgroup
from moe_mlx.rig.random_store import SHAPES, Shape, make_checkpoint, scaled

MOE_MLX = [sys.executable, "-m", "moe_mlx"]
needs_rig = [pytest.mark.rig, pytest.mark.skipif(cgroup.why_not() is not None, reason=str(cgroup.why_not()))]


def groups() -> list[Path]:
    return [path for controller in ("memory", "blkio") for path in (cgroup.ROOT / controller).rglob("moe-mlx-rig-*")]


def test_it_says_why_it_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert "version 1" in str(cgroup.why_not(tmp_path))
    monkeypatch.setattr(cgroup.sys, "platform", "darwin")
    assert main(["rig", "--", "true"]) == 2
    assert "needs Linux" in capsys.readouterr().err


def test_it_needs_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for controller in ("memory", "blkio"):
        (tmp_path / controller).mkdir()
        (tmp_path / controller / "cgroup.procs").touch()
    assert "limit block devices" in str(cgroup.why_not(tmp_path))
    (tmp_path / "blkio" / "blkio.throttle.read_bps_device").touch()
    monkeypatch.setattr(cgroup.os, "geteuid", lambda: 1000)
    assert "root" in str(cgroup.why_not(tmp_path))


def test_no_command(capsys: pytest.CaptureFixture[str]):
    assert main(["rig"]) == 2
    assert "no command" in capsys.readouterr().err


def test_a_random_checkpoint_is_valid_for_mlx_lm(random_checkpoint: Path):
    model, tokenizer = mlx_lm.load(str(random_checkpoint))[:2]
    assert mlx_lm.generate(model, tokenizer, "hello", max_tokens=3) is not None


def test_make_store(tmp_path: Path):
    words = ["rig", "make-store", "--shape", "tiny", "--layers", "3", "--store", str(tmp_path / "s")]
    assert main(words) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert main(["verify", str(tmp_path / "s")]) == 0
    assert main(words) == 2


@pytest.mark.parametrize("change", [{"hidden": 65}, {"top_k": 99}, {"layers": 0}, {"vocabulary": 5}])
def test_shapes_that_cannot_be_built(tmp_path: Path, change: dict[str, int]):
    shape = Shape(**{**{name: getattr(SHAPES["tiny"], name) for name in Shape.__dataclass_fields__}, **change})
    with pytest.raises(UsageError):
        make_checkpoint(shape, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_scaled():
    assert scaled(SHAPES["qwen3-30b-a3b"], 0.25).layers == 12
    with pytest.raises(UsageError):
        scaled(SHAPES["tiny"], 0)


@pytest.mark.rig
@pytest.mark.skipif(cgroup.why_not() is not None, reason=str(cgroup.why_not()))
class TestUnderLimits:
    def test_the_exit_code_is_the_command_s(self, tmp_path: Path):
        report = tmp_path / "r.json"
        assert main(["rig", "--memory", "50MB", "--json", str(report), "--", "sh", "-c", "exit 7"]) == 7
        assert json.loads(report.read_text())["exit_code"] == 7
        assert main(["rig", "--", "no-such-command"]) == 2
        assert not groups()

    def test_the_read_limit_holds(self, tmp_path: Path):
        data = tmp_path / "data"
        with data.open("wb") as file:
            file.write(os.urandom(10_000_000))
            file.flush()
            os.fsync(file.fileno())
        try:
            cgroup.device_of(tmp_path)
        except UsageError as error:
            pytest.skip(str(error))
        report = tmp_path / "r.json"
        words = ["rig", "--read-limit", "10MB", "--cold", "--store", str(tmp_path), "--json", str(report)]
        subprocess.run([*MOE_MLX, *words, "--", "cat", str(data)], check=True, stdout=subprocess.DEVNULL)
        found = json.loads(report.read_text())
        assert 10_000_000 <= found["read"] < 11_000_000
        assert 0.7 < found["seconds"] < 3

    def test_memory_beyond_the_limit_is_not_given(self):
        grab = "x = bytearray(200_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1"
        assert main(["rig", "--memory", "60MB", "--", sys.executable, "-c", grab]) == 128 + signal.SIGKILL
        assert not groups()

    def test_nothing_is_left_after_an_interrupt(self):
        # A test run in the background ignores SIGINT, and children inherit that unless told otherwise.
        words = ["env", "--default-signal=INT", *MOE_MLX, "rig", "--memory", "50MB", "--", "sleep", "60"]
        running = subprocess.Popen(words, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 20
        while not any((group / "cgroup.procs").read_text().strip() for group in groups()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        assert running.wait(20) in (130, 128 + signal.SIGINT)
        assert not groups()

    @pytest.mark.slow
    def test_experts_larger_than_the_limit(self, tmp_path: Path):
        shape = Shape(8, 64, 2, 768, 1024, 8, 2, 64, 512)  # 755 MB of experts
        make_checkpoint(shape, tmp_path / "model")
        words = ["generate", "--model", str(tmp_path / "model"), "--prompt", "Hello there, how are you?", "-m", "8"]
        words += ["--routing", "exact", "--expert-cache", "6.25%", "--decode", "readback", "--max-kv-size", "512"]
        words += ["--json"]
        free = json.loads(subprocess.run([*MOE_MLX, *words], check=True, capture_output=True).stdout)
        report = tmp_path / "r.json"
        limited = subprocess.run(
            [*MOE_MLX, "rig", "--memory", "240MB", "--json", str(report), "--", *MOE_MLX, *words],
            check=True,
            capture_output=True,
        )
        answer, took = json.loads(limited.stdout), json.loads(report.read_text())
        assert answer["tokens"] == free["tokens"]
        assert (answer["hits"], answer["misses"]) == (free["hits"], free["misses"])
        assert answer["expert_cache_bytes"] == free["expert_cache_bytes"] < 50e6
        assert took["peak_charged"] <= 240e6 and took["swapped"] == 0
        assert not groups()
