"""Talking to a model over two processes: the line mode, and the app's engine, whose snapshots show both."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.machines.ranks import LIMIT, ranks

pytestmark = pytest.mark.slow
WORDS = ("--parallel", "pipeline", "--routing", "exact", "--decode", "readback", "--expert-cache", "50%", "-m", "12")
TYPED = "the fox\n/new\nthe fox\n/quit\n"
#: What `describe_ranks` says of a rank's layers, by way.
LAYERS = {"pipeline": "1-1", "tensor": "1-2"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4)
    convert(folder / "checkpoint", folder / "store", row_blocks=16)
    return folder / "store"


@pytest.fixture(scope="module")
def alone(store: Path) -> str:
    """What one process answers, read back."""
    words = [sys.executable, "-m", "moe_mlx", "chat", "--plain", "--no-history", "--model", str(store), *WORDS[2:]]
    done = subprocess.run(words, input=TYPED, capture_output=True, text=True, timeout=LIMIT, check=True)
    return done.stdout


@pytest.mark.parametrize("decode", ["native", "readback"])
@pytest.mark.parametrize("way", ["pipeline", "tensor"])
def test_lines_are_answered_as_by_one_process_and_each_rank_is_told(
    store: Path, alone: str, tmp_path: Path, way: str, decode: str
):
    chat = ["-m", "moe_mlx", "chat", "--plain", "--no-history", "--model", str(store), *WORDS]
    with ranks(tmp_path, [[*chat, "--parallel", way, "--decode", decode]] * 2, typed=TYPED) as group:
        assert [rank.wait() for rank in group] == [0, 0], [rank.said for rank in group]
        assert group[0].told == alone
        one, other = alone.splitlines()
        assert one == other and one
        lines = [line for line in group[0].said.splitlines() if line.startswith("[rank 1 ")]
        assert len(lines) == 2 and all(line.endswith(f"decode {decode}]") for line in lines), lines
        assert all(f"layers {LAYERS[way]}, " in line for line in lines), lines
        assert not group[1].told, "a worker writes to standard error alone"


def test_a_worker_that_dies_leaves_the_conversation_its_reason(store: Path, tmp_path: Path):
    chat = ["-m", "moe_mlx", "chat", "--plain", "--no-history", "--model", str(store), *WORDS[:-1]]
    with ranks(tmp_path, [[*chat, "100000"]] * 2, typed="the fox\n" * 2) as group:
        ends = time.monotonic() + 120
        while not group[0].told:
            assert time.monotonic() < ends and group[0].process.poll() is None, group[0].said
            time.sleep(0.02)
        group[1].process.kill()
        group[0].until("error: rank 1 (127.0.0.1) is gone")
        assert group[0].wait(60) == 0, "the line mode closes what is left of the group"


@pytest.mark.parametrize(("way", "split"), [("pipeline", "1,2"), ("tensor", "5,11")])
def test_the_app_shows_both_machines_and_changes_both(store: Path, tmp_path: Path, way: str, split: str):
    words = ["--no-history", "--model", str(store), *WORDS, "--parallel", way, "--split", split]
    commands = [["-m", "tests.machines.app_engine", *words], ["-m", "moe_mlx", "chat", *words]]
    with ranks(tmp_path, commands) as group:
        assert [rank.wait() for rank in group] == [0, 0], [rank.said for rank in group]
        found = json.loads(group[0].told)
    if way == "pipeline":
        layers = len(found["ranks"])
        first, each = found["ranks"].count(1), found["cells"] // layers
        assert found["ranks"] == [1] * first + [0] * (layers - first) and 0 < first < layers
        assert any(found["present"][: first * each]) and any(found["present"][first * each :])
    assert [machine["name"] for machine in found["machines"]] == ["rank 0 (127.0.0.1)", "rank 1 (127.0.0.1)"]
    assert all(machine["hits"] + machine["misses"] and machine["footprint"] for machine in found["machines"])
    assert found["hits"] > 0 and len(found["receipt"]) == 2
    assert found["again"] == found["text"]
    remarks = " ".join(found["remarks"])
    assert "several machines run this model" in remarks
    assert "not changed: rank 0 (127.0.0.1): " in remarks, "a cap below the floor changes nothing, and ends nothing"
    assert "not changed: set routing: late and coarse experts run on one machine only" in remarks
    assert "one routing at a time" in found["compared"]
    assert found["share"] == 1.0, "the cap was changed on both"
