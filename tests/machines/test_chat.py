"""Talking to a model over two processes: the line mode, and the app's engine, whose snapshots show both."""

import json
import time
from pathlib import Path

import pytest

from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.machines.ranks import ranks

pytestmark = pytest.mark.slow
WORDS = ("--parallel", "pipeline", "--routing", "exact", "--decode", "readback", "--expert-cache", "50%", "-m", "12")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4)
    convert(folder / "checkpoint", folder / "store")
    return folder / "store"


def test_lines_are_answered_and_each_rank_is_told(store: Path, tmp_path: Path):
    chat = ["-m", "moe_mlx", "chat", "--plain", "--no-history", "--model", str(store), *WORDS]
    with ranks(tmp_path, [chat] * 2, typed="the fox\n/new\nthe fox\n/quit\n") as group:
        assert [rank.wait() for rank in group] == [0, 0], [rank.said for rank in group]
        one, other = group[0].told.splitlines()
        assert one == other and one
        assert group[0].said.count("[rank 1 (127.0.0.1): layers 1-1, ") == 2
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


def test_the_app_shows_both_machines_and_changes_both(store: Path, tmp_path: Path):
    words = ["--no-history", "--model", str(store), *WORDS]
    commands = [["-m", "tests.machines.app_engine", *words], ["-m", "moe_mlx", "chat", *words]]
    with ranks(tmp_path, commands) as group:
        assert [rank.wait() for rank in group] == [0, 0], [rank.said for rank in group]
        found = json.loads(group[0].told)
    layers = len(found["ranks"])
    first, each = found["ranks"].count(1), found["cells"] // layers
    assert found["ranks"] == [1] * first + [0] * (layers - first) and 0 < first < layers
    assert any(found["present"][: first * each]) and any(found["present"][first * each :])
    assert [machine["name"] for machine in found["machines"]] == ["rank 0 (127.0.0.1)", "rank 1 (127.0.0.1)"]
    assert all(machine["hits"] + machine["misses"] and machine["footprint"] for machine in found["machines"])
    assert found["hits"] > 0 and len(found["receipt"]) == 2
    assert found["again"] == found["text"]
    assert "several machines run this model" in " ".join(found["remarks"])
    assert "one routing at a time" in found["compared"]
    assert found["share"] == 1.0, "the cap was changed on both"
