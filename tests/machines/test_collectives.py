"""Collectives of a token: as many as the page says, and each waits for the one before it."""

import json
from pathlib import Path
from typing import Any

import pytest

from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.machines.ranks import ranks

LAYERS = 3
TOKENS = 6
#: Calls of a token by rank: mlx-lm receives, sends and tells all; rows gather twice a layer; one control sum.
PIPELINE = {
    2: [["recv_like", "all_gather", "all_sum"], ["send", "all_gather", "all_sum"]],
    3: [
        ["recv_like", "all_gather", "all_sum"],
        ["recv_like", "send", "all_gather", "all_sum"],
        ["send", "all_gather", "all_sum"],
    ],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    layers = {"num_hidden_layers": LAYERS, "mlp_only_layers": []}
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4, **layers)
    convert(folder / "checkpoint", folder / "store", row_blocks=16)
    return folder / "store"


def steps(folder: Path, store: Path, size: int, *words: str) -> list[list[dict[str, Any]]]:
    """Returns the last steps of every rank, all of them decode."""
    every = ["-m", "tests.machines.collectives", "--model", str(store), "-m", str(TOKENS), "--expert-cache", "50%"]
    with ranks(folder, [[*every, *words]] * size) as group:
        assert [rank.wait() for rank in group] == [0] * size, [rank.said for rank in group]
        return [json.loads(rank.told.splitlines()[-1])[1 - TOKENS :] for rank in group]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_of_a_pipeline(store: Path, tmp_path: Path, size: int):
    found = steps(tmp_path, store, size, "--parallel", "pipeline", "--decode", "native")
    for rank, calls in enumerate(PIPELINE[size]):
        assert [step["calls"] for step in found[rank]] == [calls] * (TOKENS - 1)
        assert [(step["in_graph"], step["in_line"]) for step in found[rank]] == [(len(calls),) * 2] * (TOKENS - 1)


@pytest.mark.slow
@pytest.mark.parametrize("decode", ["native", "readback"])
def test_of_rows(store: Path, tmp_path: Path, decode: str):
    found = steps(tmp_path, store, 2, "--parallel", "tensor", "--decode", decode)
    for rank in found:
        calls = ["all_gather"] * 2 * LAYERS + ["all_sum"]
        assert [step["calls"] for step in rank] == [calls] * (TOKENS - 1)
        # Read back, every layer's gathers are computed before the next layer chooses.
        count = len(calls) if decode == "native" else 3
        assert [(step["in_graph"], step["in_line"]) for step in rank] == [(count, count)] * (TOKENS - 1)
