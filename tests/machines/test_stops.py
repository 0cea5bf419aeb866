"""Answers that are stopped at any token or chunk of a prompt: what was said is right, and so is what is said next."""

import json
from pathlib import Path

import pytest

from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.machines.ranks import LIMIT, ranks


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4, mlp_only_layers=[])
    convert(folder / "checkpoint", folder / "store", row_blocks=16)
    return folder / "store"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "parallel", "way"),
    [(2, "pipeline", "native"), (2, "tensor", "readback"), (3, "pipeline", "readback"), (3, "tensor", "native")],
)
def test_random_stops_leave_no_wrong_token(store: Path, tmp_path: Path, size: int, parallel: str, way: str):
    words = ["-m", "tests.machines.random_stops", "12", "1", "--parallel", parallel, "--decode", way, "-m", "16"]
    words += ["--model", str(store), "--routing", "exact", "--expert-cache", "25%"]
    with ranks(tmp_path, [words] * size) as group:
        assert [rank.wait(3 * LIMIT) for rank in group] == [0] * size, [rank.said for rank in group]
        found = json.loads(group[0].told)
    assert found["wrong"] == 0 and found["late"] <= 2 and found["machines"] == size
    assert all(found["stops"].values())
