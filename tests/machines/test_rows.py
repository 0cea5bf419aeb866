"""Rows of every expert on every process: tokens, logits, counts and residency of one process, in even shares or not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.machines.ranks import LIMIT, ranks

WORDS = ["-m", "tests.machines.many_answers", "--expert-cache", "40%", "--max-tokens", "8", "--decode", "readback"]
COUNTS = ("hits", "misses", "swapped")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4)
    convert(folder / "checkpoint", folder / "store", row_blocks=16)
    return folder / "store"


@pytest.mark.slow
@pytest.mark.parametrize("split", ["8,8", "5,11"])
def test_two_processes_answer_as_one(store: Path, tmp_path: Path, split: str):
    words = [*WORDS, "--model", str(store)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=LIMIT, check=True)
    alone = json.loads(done.stdout)
    with ranks(tmp_path, [[*words, "--parallel", "tensor", "--split", split]] * 2) as group:
        assert [rank.wait() for rank in group] == [0, 0], [rank.said for rank in group]
        found = json.loads(group[0].told)
    first, second = (int(word) for word in split.split(","))
    for ours, theirs in zip(found, alone, strict=True):
        assert {name: ours[name] for name in ("tokens", "logits", "finish", "residency")} == {
            name: theirs[name] for name in ("tokens", "logits", "finish", "residency")
        }
        for row in ours["machines"]:
            assert row["residency"] == theirs["residency"]
            assert [row["decode"][name] for name in COUNTS] == [theirs[name] for name in COUNTS]
        nbytes = [row["decode"]["bytes_read"] for row in ours["machines"]]
        assert sum(nbytes) == theirs["bytes_read"] > 0
        assert nbytes[0] * second == nbytes[1] * first


def test_a_store_without_row_blocks_is_refused(tmp_path: Path):
    tiny_checkpoint("qwen3_moe", tmp_path / "checkpoint", quantization=AFFINE4)
    words = ["-m", "moe_mlx", "generate", "-p", "x", "--parallel", "tensor", "--model", str(tmp_path / "checkpoint")]
    with ranks(tmp_path, [words] * 2) as group:
        assert [rank.wait(60) for rank in group] == [2, 2] or "--row-blocks 16" in group[0].said
        assert "--row-blocks 16" in group[0].said
