"""Experts of different bits in one layer: mlx-lm's logits on the same rounded weights, bit for bit, both ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx.native import build
from moe_mlx.native.toolchain import NativeUnavailableError
from moe_mlx.store import open_source
from tests.checkpoints import AFFINE4, make_checkpoint
from tests.families.calls import answer, same
from tests.families.configs import config
from tests.fewer_bits import drawn_store, ordinary

AFFINE8 = {"group_size": 32, "bits": 8, "mode": "affine"}
#: Families whose experts differ most, and what their sources' experts are.
MADE: dict[str, tuple[str, dict[str, Any] | None]] = {
    "qwen3_moe, 4 bits": ("qwen3_moe", AFFINE4),
    "qwen3_moe, 6 bits": ("qwen3_moe", {**AFFINE4, "bits": 6}),
    "deepseek_v3, 8 bits": ("deepseek_v3", AFFINE8),
    "gpt_oss, float32": ("gpt_oss", None),
    "mixtral, float32": ("mixtral", None),
    "ernie4_5_moe, 4 bits": ("ernie4_5_moe", AFFINE4),
    "longcat_flash, 4 bits": ("longcat_flash", AFFINE4),
    "nemotron_h, 4 bits": ("nemotron_h", AFFINE4),
}


@pytest.fixture
def native() -> Any:
    try:
        return build.load_native(print)
    except NativeUnavailableError as error:
        pytest.skip(f"no in-graph decode here: {error}")


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize("made", MADE)
def test_bit_equal_to_the_rounded_checkpoint(
    native: Any, family_checkpoint: Callable[..., Path], capped: Callable[..., Any], made: str, tmp_path: Path
) -> None:
    checkpoint = family_checkpoint(*MADE[made])
    store = drawn_store(checkpoint, tmp_path / "store")
    theirs = answer(load_model(ordinary(checkpoint, store, tmp_path / "ordinary"))[0])
    assert not same(theirs, answer(load_model(checkpoint)[0])), "rounding changed nothing: the comparison says nothing"
    for way in ("native", "readback"):
        model = capped(store, "25%", decode=way, routing="exact")
        assert moe_mlx.runtime_of(model).decode_way == way
        assert same(theirs, answer(model)), way
        totals = moe_mlx.stats(model)
        whole = model_bytes(model)
        assert 0 < totals.decode.bytes_read < totals.decode.misses * whole
    assert same(theirs, answer(capped(store, "100%")))


def model_bytes(model: Any) -> int:
    return max(layer.expert_nbytes for layer in moe_mlx.runtime_of(model).source.layers)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str, capped: Callable[..., Any], tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "source", config("qwen3_moe"), dtype=dtype)
    store = drawn_store(tmp_path / "source", tmp_path / "store")
    theirs = answer(load_model(ordinary(tmp_path / "source", store, tmp_path / "ordinary"))[0])
    assert same(theirs, answer(capped(store, "25%", routing="exact")))


def test_from_a_nested_store_and_in_row_blocks(
    family_checkpoint: Callable[..., Path], capped: Callable[..., Any], tmp_path: Path
) -> None:
    from moe_mlx_convert import convert

    checkpoint = family_checkpoint("qwen3_moe", AFFINE4)
    convert(str(checkpoint), tmp_path / "nested", nested=True)
    first = drawn_store(checkpoint, tmp_path / "store")
    theirs = answer(load_model(ordinary(checkpoint, first, tmp_path / "ordinary"))[0])
    drawn_store(tmp_path / "nested", tmp_path / "rows", row_blocks=4)
    assert same(theirs, answer(capped(tmp_path / "rows", "25%", routing="exact")))
    assert same(theirs, answer(capped(tmp_path / "rows", "25%", routing="exact", decode="auto")))


@pytest.mark.parametrize("made", ["qwen3_moe, 4 bits", "mixtral, float32"])
def test_layers_of_one_width_have_it_in_memory(
    made: str, family_checkpoint: Callable[..., Path], capped: Callable[..., Any], tmp_path: Path
) -> None:
    checkpoint = family_checkpoint(*MADE[made])
    store = drawn_store(checkpoint, tmp_path / "store", same={0: 3, 1: 2})
    theirs = answer(load_model(ordinary(checkpoint, store, tmp_path / "ordinary"))[0])
    model = capped(store, "25%", routing="exact")
    assert same(theirs, answer(model))
    sizes = [layer.expert_nbytes for layer in moe_mlx.runtime_of(model).source.layers]
    with open_source(checkpoint) as source:
        assert sizes[1] < sizes[0] < source.layers[0].expert_nbytes
    slots = moe_mlx.runtime_of(model).slots_per_layer
    assert moe_mlx.runtime_of(model).expert_cache_bytes == sum(n * size for n, size in zip(slots, sizes, strict=True))
