"""Rows of every expert on every process: tokens, logits, counts and residency of one process, in even shares or not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.errors import UsageError
from moe_mlx.machines.rows import Rows
from moe_mlx.store import open_source
from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.machines.ranks import LIMIT, ranks

WORDS = ["-m", "tests.machines.many_answers", "--expert-cache", "40%", "--max-tokens", "8", "--decode", "native"]
COUNTS = ("hits", "misses", "swapped")
SAME = ("way", "routing", "tokens", "logits", "finish", "residency", "reused")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4)
    convert(folder / "checkpoint", folder / "store", row_blocks=16)
    return folder / "store"


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, high bits first: a rank's rows of an expert are several runs of its file."""
    folder = tmp_path_factory.mktemp("nested")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4)
    convert(folder / "checkpoint", folder / "store", row_blocks=16, nested=True)
    return folder / "store"


@pytest.fixture(scope="module")
def alone(store: Path) -> list[dict[str, Any]]:
    words = [sys.executable, *WORDS, "--model", str(store)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=True)
    return json.loads(done.stdout)


def check(folder: Path, store: Path, split: str, alone: list[dict[str, Any]]) -> None:
    blocks = [int(word) for word in split.split(",")]
    words = [*WORDS, "--model", str(store), "--parallel", "tensor", "--split", split]
    with ranks(folder, [words] * len(blocks)) as group:
        assert [rank.wait() for rank in group] == [0] * len(blocks), [rank.said for rank in group]
        found = json.loads(group[0].told)
    assert {ours["way"] for ours in found} == {"native", "readback"}
    for ours, theirs in zip(found, alone, strict=True):
        assert {name: ours[name] for name in SAME} == {name: theirs[name] for name in SAME}
        for row in ours["machines"]:
            assert row["residency"] == theirs["residency"] and row["decode_way"] == ours["way"]
            assert [row["decode"][name] for name in COUNTS] == [theirs[name] for name in COUNTS]
        nbytes = [row["decode"]["bytes_read"] for row in ours["machines"]]
        assert sum(nbytes) == theirs["bytes_read"] > 0
        assert [part * 16 for part in nbytes] == [count * theirs["bytes_read"] for count in blocks]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["8,8", "5,11", "3,4,9"])
def test_processes_answer_as_one(store: Path, alone: list[dict[str, Any]], tmp_path: Path, split: str):
    check(tmp_path, store, split, alone)


@pytest.mark.slow
def test_high_bits_first_are_read_as_well(nested: Path, alone: list[dict[str, Any]], tmp_path: Path):
    check(tmp_path, nested, "5,11", alone)


@pytest.mark.slow
def test_a_store_without_row_blocks_is_refused(tmp_path: Path):
    tiny_checkpoint("qwen3_moe", tmp_path / "checkpoint", quantization=AFFINE4)
    words = ["-m", "moe_mlx", "generate", "-p", "x", "--parallel", "tensor", "--model", str(tmp_path / "checkpoint")]
    with ranks(tmp_path, [words] * 2) as group:
        codes = [rank.wait() for rank in group]
        assert 2 in codes and set(codes) <= {1, 2}, "whoever hears of it first from another did not refuse it itself"
        assert all("--row-blocks 16" in rank.said for rank in group)


class Rank:
    """What a group is to one of three ranks."""

    def size(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("blocks", "asked", "said"),
    [
        (None, None, "needs a store: `moe-mlx convert --row-blocks 16`"),
        (1, None, "in 1 row blocks, and 3 machines would share them"),
        (16, (8, 8), "has 16 row blocks for 3 ranks"),
        (16, (16, 0, 0), "has 16 row blocks for 3 ranks"),
    ],
)
def test_rows_that_cannot_be_shared_are_refused(
    store: Path, tmp_path: Path, blocks: int | None, asked: tuple[int, ...] | None, said: str
):
    folder = store if blocks == 16 else store.parent / "checkpoint"
    if blocks == 1:
        convert(folder, tmp_path / "store")
        folder = tmp_path / "store"
    with open_source(folder) as source, pytest.raises(UsageError, match=said):
        Rows(Rank(), (1, 1, 1), asked, lambda about, words: [words]).share(source)
