"""A failed step's error on the GPU's stream ends its own turn and is not met by the next one.

Written for Metal and run on none so far; `native/test_crossings.py` does the same on a CPU stream of its own.
"""

import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

import moe_mlx
from moe_mlx.errors import ExpertReadError
from moe_mlx_convert import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint

TOKENS = (5, 9, 1, 30, 2, 7, 7, 12)


def decoded(model: object) -> list[np.ndarray]:
    cache, rows = make_prompt_cache(model), []
    for token in TOKENS:
        rows.append(model(mx.array([[token]]), cache=cache))
        mx.async_eval(rows[-1])
    mx.eval(rows)
    return [np.array(row.astype(mx.float32)) for row in rows]


def test_an_error_does_not_survive_on_the_gpu_s_stream(tmp_path: Path):
    tiny_checkpoint("qwen3_moe", tmp_path / "checkpoint", quantization=AFFINE4)
    convert(tmp_path / "checkpoint", tmp_path / "store")
    model, _ = moe_mlx.load(
        tmp_path / "store", expert_cache="25%", routing="exact", decode="native", say=lambda line: None
    )
    runtime = moe_mlx.runtime_of(model)
    good = decoded(model)
    runtime.reset()
    layer = tmp_path / "store/experts/layer-001"
    shutil.copytree(layer, tmp_path / "whole")
    for path in layer.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    for _ in range(3):
        with pytest.raises(ExpertReadError, match="layer 1"):
            decoded(model)
        runtime.reset()
    shutil.copytree(tmp_path / "whole", layer, dirs_exist_ok=True)
    runtime.reset()
    assert all(np.array_equal(a, b) for a, b in zip(good, decoded(model), strict=True))
    runtime.close()
