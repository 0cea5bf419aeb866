"""A store of version 2 runs as its checkpoint does, bit for bit: experts are joined as they are read."""

from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

import moe_mlx
from moe_mlx.store import open_source
from moe_mlx.store.identity import identity_of
from moe_mlx_convert import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint

HOW = {"nested": {"nested": True}, "rows": {"row_blocks": 4}, "nested rows": {"nested": True, "row_blocks": 4}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("version-2"), quantization=AFFINE4)


@pytest.fixture(scope="module")
def reference(checkpoint: Path):
    return mlx_lm.load(str(checkpoint))[0]


@pytest.fixture(scope="module", params=HOW)
def store(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "store"
    convert(checkpoint, folder, **HOW[request.param])
    return folder


@pytest.mark.parametrize("io", ["cached", "direct"])
def test_prefill_and_decode_are_bit_equal(store: Path, reference, io: str):
    said: list[str] = []
    model, _ = moe_mlx.load(store, expert_cache="25%", routing="exact", io=io, say=said.append)
    for length in (1, 17, 65):
        tokens = mx.array(np.random.default_rng(length).integers(0, 60, length))[None]
        theirs, ours = make_prompt_cache(reference), make_prompt_cache(model)
        assert mx.array_equal(reference(tokens, cache=theirs), model(tokens, cache=ours)), f"prompt of {length}"
        for token in range(6):
            step = mx.array([[token]])
            assert mx.array_equal(reference(step, cache=theirs), model(step, cache=ours)), f"{length} + {token}"
    assert moe_mlx.stats(model).decode.misses > 0
    if moe_mlx.runtime_of(model).decode_way == "readback":
        assert any("decode reads back" in line for line in said)


def test_it_is_the_same_model(store: Path, checkpoint: Path):
    """What is remembered of a model, by its identity, holds for its stores of either version."""
    with open_source(store) as stored, open_source(checkpoint) as in_place:
        assert identity_of(stored) == identity_of(in_place)


def test_what_memory_a_reader_takes_is_planned(store: Path):
    model, _ = moe_mlx.load(store, expert_cache="50%", decode="readback", readers=2, say=lambda line: None)
    runtime = moe_mlx.runtime_of(model)
    assert runtime.plan.extra >= 2 * runtime.source.layers[0].expert_nbytes
