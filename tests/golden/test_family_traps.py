"""What is special about single families, formats that the CPU cannot execute, and families nobody knows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx.expert_cache.switch import CappedSwitch
from moe_mlx.families import blocks
from moe_mlx.families.odd_routers import SparseMixer
from moe_mlx.families.routers import Groups, Scored
from moe_mlx.routing.settings import RoutingSettings
from tests.families.calls import answer, same
from tests.families.configs import config


def test_identity_experts_are_neither_read_nor_counted(family_checkpoint: Any, capped: Any, monkeypatch: Any) -> None:
    """LongCat: mlx-lm runs expert 0 in the place of each, for nothing."""
    numbers: list[np.ndarray] = []
    original = CappedSwitch.__call__

    def call(self: CappedSwitch, x: mx.array, indices: mx.array) -> mx.array:
        numbers.append(np.array(indices))
        return original(self, x, indices)

    monkeypatch.setattr(CappedSwitch, "__call__", call)
    model = capped(family_checkpoint("longcat_flash"), "50%", routing="exact")
    answer(model)
    settings, decode = config("longcat_flash"), moe_mlx.stats(model).decode
    chosen = [row for row in numbers if row.shape[-2] == 1]
    real = sum(int((row < settings["n_routed_experts"]).sum()) for row in chosen)
    assert decode.hits + decode.misses == real < len(chosen) * settings["moe_topk"]


def test_an_expert_of_a_dropped_group_may_still_be_the_model_s_own_choice() -> None:
    """DeepSeek-V3 masks groups with 0, so where all scores are negative the dropped ones win."""
    router = Scored(lambda m, x: x, "k", bias="bias", groups=Groups("groups", "kept"))
    module = SimpleNamespace(k=3, bias=mx.full((8,), -2.0), groups=4, kept=1)
    ranking = router.ranking(module, mx.random.normal((1, 1, 8), key=mx.random.key(0)))
    scores, exact = np.array(ranking.scores).reshape(-1), np.array(ranking.exact).reshape(-1)
    assert np.isfinite(scores[exact]).all()
    assert np.isfinite(scores).sum() == 2 + 3


def test_sparsemixer_weighs_a_stand_in_within_its_own_band() -> None:
    z = np.array([1.0, 0.995, 0.2, -1.0, 0.99], dtype=np.float32)
    router, module = SparseMixer(), SimpleNamespace(gate=lambda x: mx.array(z), top_k=2, jitter_eps=0.01)
    ranking = router.ranking(module, mx.zeros(1))
    assert np.array(ranking.exact).tolist() == [0, 1]
    weights = np.array(router.weights(module, mx.zeros(1), ranking, mx.array([0, 2])))
    near = np.exp(z[[0, 1, 4]] - z[0])
    above = np.exp(z[[1, 2, 4]])
    assert weights == pytest.approx([near[0] / near.sum(), above[1] / above.sum()], rel=1e-6)


def test_phimoe_is_routed_by_the_rule(family_checkpoint: Any, capped: Any) -> None:
    events: list[Any] = []
    model = capped(family_checkpoint("phimoe"), "50%", routing="cache-prior", route_lambda=0.5)
    for layer in moe_mlx.runtime_of(model).layers:
        layer.recorder = events.append
    answer(model)
    for event in events:
        assert list(event.exact) == np.argsort(-event.scores, kind="stable")[:2].tolist()
        assert event.exact[0] in event.touched
    assert moe_mlx.stats(model).decode.swapped > 0


def test_muse_spark_s_block_routes(family_checkpoint: Any, capped: Any, monkeypatch: Any) -> None:
    """Its router and its norm are Metal kernels: both sides run them restated, on one block."""
    from mlx_lm.models import muse_spark

    def expert_routing(logits: mx.array, bias: mx.array, **options: Any) -> list[mx.array]:
        z = logits * options["multiplier"]
        score = mx.where(z < 0, 1 / (1 + mx.exp(mx.abs(z))), 1 - 1 / (1 + mx.exp(mx.abs(z))))
        chosen = mx.argsort(-(score + bias), axis=-1)[..., : options["top_k"]].astype(mx.uint32)
        weights = mx.take_along_axis(score, chosen, axis=-1)
        total = weights.sum(axis=-1, keepdims=True) + options["score_eps"]
        return [chosen, weights / total * options["route_scale"]]

    def post_expert_norm_combine(y: mx.array, weights: mx.array, *, norm_weight: mx.array, eps: float) -> mx.array:
        return (mx.fast.rms_norm(y * norm_weight, None, eps) * weights[..., None]).sum(axis=-2)

    monkeypatch.setattr(muse_spark, "expert_routing", expert_routing)
    monkeypatch.setattr(muse_spark, "post_expert_norm_combine", post_expert_norm_combine)
    folder = family_checkpoint("muse_spark")
    theirs = load_model(folder)[0].layers[1].mlp
    model = capped(folder, "25%", routing="exact")
    ours = model.layers[1].mlp
    layer = moe_mlx.runtime_of(model).layers[1]
    inputs = [mx.random.normal((1, rows, 64), key=mx.random.key(rows + n)) for n, rows in enumerate((9, 1, 1, 1, 1, 1))]
    for policy in (layer.policy, RoutingSettings("cache-prior", 1e-9).policy(3, 16)):
        layer.policy = policy
        for x in inputs:
            assert mx.array_equal(theirs(x), ours(x))
    layer.policy = RoutingSettings("cache-prior", 1.0).policy(3, 16)
    for x in inputs:
        mx.eval(ours(x))
    assert moe_mlx.stats(model).decode.swapped > 0


def test_a_family_whose_router_is_not_known_is_routed_exactly_and_says_so_once(
    family_checkpoint: Any, reference: Any, capped: Any, monkeypatch: Any
) -> None:
    monkeypatch.delitem(blocks.SITES, "qwen3_moe")
    lines: list[str] = []
    model = capped(family_checkpoint("qwen3_moe"), "50%", routing="cache-prior", route_lambda=0.9, say=lines.append)
    assert same(reference("qwen3_moe"), answer(model))
    assert len([line for line in lines if "exact" in line]) == 1
    assert moe_mlx.stats(model).decode.swapped == 0


def test_top_1_is_exact_and_says_so_once(family_checkpoint: Any, reference: Any, capped: Any) -> None:
    lines: list[str] = []
    model = capped(family_checkpoint("llama4"), "50%", route_lambda=0.9, route_top_j=0, say=lines.append)
    assert same(reference("llama4"), answer(model))
    assert len([line for line in lines if "exact" in line]) == 1


MODES = [
    {"mode": "mxfp4"},
    {"mode": "mxfp8"},
    {"mode": "nvfp4"},
    {"mode": "affine", "bits": 8, "group_size": 64},
    {"mode": "affine", "bits": 3, "group_size": 32},
]


@pytest.mark.rows_by_day(5)
@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "nemotron_h"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode['mode']}{mode.get('bits', '')}")
def test_every_quantisation_is_bit_equal(
    family_checkpoint: Any, reference: Any, capped: Any, name: str, mode: dict[str, Any]
) -> None:
    model = capped(family_checkpoint(name, mode), "37.5%", routing="exact")
    assert same(reference(name, mode), answer(model))


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "muse_spark"])
@pytest.mark.parametrize("form", ["nvfp4 with global scales", "bfloat16"])
def test_what_the_cpu_cannot_execute_arrives_byte_for_byte(
    family_checkpoint: Any, tmp_path: Path, capped: Any, name: str, form: str
) -> None:
    if form == "bfloat16":
        folder = in_bfloat16(family_checkpoint(name), tmp_path)
    else:
        folder = family_checkpoint(name, {"mode": "nvfp4", "global_scale": True})
    stored = mx.load(str(folder / "model.safetensors"))
    runtime = moe_mlx.runtime_of(capped(folder, "50%", routing="exact"))
    dtypes = {spec.dtype for layer in runtime.layers for spec in layer.spec.tensors}
    assert "BF16" in dtypes if form == "bfloat16" else dtypes >= {"U32", "U8", "F32"}
    for layer in runtime.layers:
        chosen = [9, 2, 15, 4]
        layer.fill(chosen)
        for spec, bank in zip(layer.spec.tensors, layer.bank.arrays, strict=True):
            whole = stored[f"{layer.spec.path}.{spec.name}"]
            for expert in chosen:
                slot = layer.table.slot_of[expert]
                assert mx.array_equal(bits(bank[slot : slot + 1]), bits(whole[expert : expert + 1]))


def bits(array: mx.array) -> mx.array:
    return array.view(mx.uint32 if array.dtype.size == 4 else mx.uint16 if array.dtype.size == 2 else mx.uint8)


def in_bfloat16(source: Path, folder: Path) -> Path:
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    weights = {name: array.astype(mx.bfloat16) for name, array in mx.load(str(source / "model.safetensors")).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder
