"""What fewer bits cost an expert's output, against the whole block computed with mlx-lm's own modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx.bits.output_error import measure
from moe_mlx.bits.rounding import Rounding
from moe_mlx.errors import UnsupportedModelError
from moe_mlx.planning.budget import cache_bytes
from moe_mlx.store.parts import WIDTHS
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.families.calls import CALLS

DOCUMENTS = [CALLS[0], [*range(20, 45)]]


def measured(folder: Path, documents: list[list[int]] = DOCUMENTS) -> tuple[Any, Any, Any]:
    """Returns a model's measure, its roundings, and itself."""
    model, _ = moe_mlx.load(folder, expert_cache="25%", decode="readback", say=lambda line: None)
    runtime = moe_mlx.runtime_of(model)
    roundings = [Rounding(runtime.source, layer.index) for layer in runtime.source.layers]
    return measure(runtime, roundings, documents, lambda done: None), roundings, runtime


@pytest.mark.parametrize("quantised", [True, False])
def test_errors_are_those_of_the_blocks_output(quantised: bool, tmp_path: Path) -> None:
    """One expert of one layer at a width, all else exact: the change of the block's output, row by row."""
    folder = tiny_checkpoint("qwen3_moe", tmp_path / "source", quantization=AFFINE4 if quantised else None)
    found, roundings, _ = measured(folder)
    reference = load_model(folder)[0]
    inputs: dict[int, list[mx.array]] = {}
    blocks = [layer.mlp for layer in reference.layers if hasattr(layer.mlp, "switch_mlp")]
    original = type(blocks[0]).__call__

    def listening(self: Any, x: mx.array) -> mx.array:
        inputs.setdefault(next(i for i, block in enumerate(blocks) if block is self), []).append(x)
        return original(self, x)

    type(blocks[0]).__call__ = listening
    try:
        for document in DOCUMENTS:
            mx.eval(reference(mx.array([document])))
    finally:
        type(blocks[0]).__call__ = original
    block, rounding = blocks[1], roundings[1]
    exact = [original(block, x) for x in inputs[1]]
    plain = found.errors[1] - found.errors[1].sum(axis=0) / (found.uses[1].sum() + found.uses[1].size)
    for expert in np.argsort(-found.uses[1])[:3].tolist():
        for width in WIDTHS[:2]:
            tensors = rounding.read(expert)
            kept = {}
            for projection in rounding.projections:
                linear = block.switch_mlp[projection.name]
                codes, scales, biases = rounding.rounded(rounding.weight(tensors, projection), projection, width)
                floats = mx.dequantize(codes, scales, biases, projection.group, width)
                kept[projection.name] = linear
                block.switch_mlp[projection.name] = _with(linear, expert, floats)
            changed = [original(block, x) for x in inputs[1]]
            for name, linear in kept.items():
                block.switch_mlp[name] = linear
            change = sum(float(mx.square(a - b).sum()) for a, b in zip(changed, exact, strict=True))
            assert plain[expert, WIDTHS.index(width)] == pytest.approx(change, rel=0.02, abs=1e-12)
    if quantised:
        assert not plain[:, -1].any() and not found.errors[1][:, -1].any(), "four bits of four cost something"
    assert found.weighed
    assert found.uses[1].sum() == sum(map(len, DOCUMENTS)) * 3


def _with(linear: Any, expert: int, weight: mx.array) -> Any:
    """Returns a projection in floats, one expert's weight another."""
    from mlx_lm.models.switch_layers import SwitchLinear

    whole = linear.weight
    if "scales" in linear:
        whole = mx.dequantize(whole, linear.scales, linear.biases, linear.group_size, linear.bits)
    rows = [whole[i] if i != expert else weight for i in range(whole.shape[0])]
    made = SwitchLinear(weight.shape[1], weight.shape[0], whole.shape[0], bias=False)
    made.weight = mx.stack(rows)
    return made


def test_what_the_text_never_chose_is_not_free(tmp_path: Path) -> None:
    folder = tiny_checkpoint("qwen3_moe", tmp_path / "source", quantization=AFFINE4)
    found, *_ = measured(folder, [[5, 6]])
    unused = np.flatnonzero(found.uses[0] == 0)
    assert unused.size
    assert (found.errors[0][unused, 0] > 0).all()


def test_the_model_is_as_it_was_and_its_slots_are_few(tmp_path: Path) -> None:
    folder = tiny_checkpoint("qwen3_moe", tmp_path / "source", quantization=AFFINE4)
    _, _, runtime = measured(folder)
    assert runtime.layers.nbytes <= cache_bytes(runtime.source.layers, [4] * len(runtime.source.layers))
    assert all(cache.aside is None and cache.weighed is None for cache in runtime.layers)
    theirs = load_model(folder)[0](mx.array([CALLS[0]]))
    assert mx.array_equal(runtime.model(mx.array([CALLS[0]])), theirs)


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4"])
def test_other_quantisations_are_refused_by_name(mode: str, tmp_path: Path) -> None:
    how: dict[str, Any] = {"group_size": 16 if mode == "nvfp4" else 32, "bits": 4, "mode": mode}
    folder = tiny_checkpoint("qwen3_moe", tmp_path / "source", quantization=how)
    model, _ = moe_mlx.load(folder, expert_cache="50%", decode="readback", say=lambda line: None)
    with pytest.raises(UnsupportedModelError, match=f"gate_proj is quantised as {mode}"):
        Rounding(moe_mlx.runtime_of(model).source, 0)
