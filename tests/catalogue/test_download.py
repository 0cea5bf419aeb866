"""A model comes from a hub, tells how far it is, and goes on after an interruption with the files it has."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moe_mlx.rig.random_store import Shape, make_checkpoint
from tests.fake_hub import FakeHub


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "name"
    make_checkpoint(Shape(2, 8, 2, 128, 64, 2, 1, 32, 128), folder)
    return folder


@pytest.fixture
def hub(checkpoint: Path):
    hub = FakeHub(checkpoint)
    yield hub
    hub.close()


def fetching(hub: FakeHub, cache: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "moe_mlx", "fetch", "owner/name", *words]
    environment = {**os.environ, **hub.environment(cache)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_it_arrives_byte_for_byte_and_says_how_far_it_is(hub: FakeHub, checkpoint: Path, tmp_path: Path):
    out, err = fetching(hub, tmp_path, "--json", "--progress", "json").communicate(timeout=60)
    rows, folder = [json.loads(line) for line in err.splitlines()], Path(json.loads(out)["folder"])
    assert rows[0]["done"] == 0 and rows[-1]["done"] == rows[-1]["total"], (rows, err)
    assert rows[-1]["total"] == sum(p.stat().st_size for p in checkpoint.iterdir())
    for path in checkpoint.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_stopped_it_keeps_what_has_arrived_and_goes_on(hub: FakeHub, checkpoint: Path, tmp_path: Path):
    hub.slow = sorted(path.name for path in checkpoint.glob("*.safetensors"))[-1]
    process = fetching(hub, tmp_path, "--progress", "json")
    while process.poll() is None and not list(tmp_path.glob("models--*/snapshots/*/*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "goes on after the files" in err, err
    assert not list(tmp_path.rglob("*.incomplete")), "half a file is left behind"
    arrived = {path.name for path in tmp_path.glob("models--*/snapshots/*/*")}
    assert arrived and hub.slow not in arrived
    before, slow, hub.slow = dict(hub.given), hub.slow, ""
    out, err = fetching(hub, tmp_path, "--progress", "json").communicate(timeout=60)
    kept = sum((checkpoint / name).stat().st_size for name in arrived)
    assert json.loads(err.splitlines()[0])["done"] == kept and Path(out.strip()).is_dir(), err
    again = {name for name, count in hub.given.items() if count > before.get(name, 0)}
    assert slow in again and not again & arrived


def test_no_such_repository_is_one_line(hub: FakeHub, tmp_path: Path):
    hub.repo = "owner/other"
    process = fetching(hub, tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, "") and err.count("\n") == 1 and "owner/name" in err
