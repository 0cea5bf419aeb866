"""A model whose experts do not fit one process's memory limit runs over two processes, each inside its own."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from moe_mlx.rig import cgroup
from moe_mlx.rig.random_store import SHAPES, make_checkpoint
from moe_mlx_convert import convert
from tests.machines.ranks import LIMIT, ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.rig,
    pytest.mark.skipif(cgroup.why_not() is not None, reason=str(cgroup.why_not())),
]
MEMORY = 700_000_000
WORDS = ("-m", "moe_mlx", "generate", "-p", "hello", "-m", "6", "--expert-cache", "100%", "--decode", "readback")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_checkpoint(replace(SHAPES["overhead"], vocabulary=512), folder / "checkpoint")
    convert(str(folder / "checkpoint"), str(folder / "store"), compare=False)
    return folder / "store"


def limited(report: Path) -> list[str]:
    return [sys.executable, "-m", "moe_mlx", "rig", "--memory", str(MEMORY), "--json", str(report), "--"]


def test_two_processes_hold_what_one_cannot(store: Path, tmp_path: Path):
    words = [*WORDS, "--model", str(store), "--max-kv-size", "256", "--json"]
    lone = [*limited(tmp_path / "one.json"), sys.executable, *words]
    alone = subprocess.run(lone, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert alone.returncode == 4, alone.stderr
    assert "does not fit" in alone.stderr
    reports = [tmp_path / f"rank-{rank}.json" for rank in range(2)]
    with ranks(tmp_path, [[*words, "--parallel", "pipeline"]] * 2, prefix=list(map(limited, reports))) as group:
        assert [rank.wait() for rank in group] == [0, 0], [rank.said for rank in group]
        found = json.loads(group[0].told)
    took = [json.loads(report.read_text()) for report in reports]
    held = [row["expert_cache_bytes"] for row in found["machines"]]
    print(f"experts held {held}, peak without page cache {[one['peak_anonymous'] for one in took]}, limit {MEMORY}")
    assert sum(held) == sum(layer.stat().st_size - 16384 for layer in (store / "experts").rglob("*.safetensors"))
    assert all(one["peak_anonymous"] < MEMORY and not one["swapped"] for one in took)
    assert sum(held) + 2 * found["machines"][0]["resident_bytes"] > 0.75 * MEMORY
    free = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert json.loads(free.stdout)["tokens"] == found["tokens"]
