"""A conversion proves before its first write that the store can be loaded, and leaves out what loading drops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx.utils import tree_flatten

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.loading.graph import origins
from moe_mlx.loading.proof import prove
from moe_mlx.planning.shape import local_shape
from moe_mlx_convert import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.convert.contents import contents, tensors
from tests.families.calls import answer, same

Change = Callable[[Path], Any]


def config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    body = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in body.items() if value is not ...}))


def weights(folder: Path, *without: str, **more: mx.array) -> None:
    """Writes all tensors anew, some left out, others added (`__` in a name stands for a dot)."""
    found = {name: array for name, array in tensors(folder).items() if name not in without}
    found |= {name.replace("__", "."): array for name, array in more.items()}
    mx.eval(found)
    for path in folder.glob("model*"):
        path.unlink()
    mx.save_safetensors(str(folder / "model.safetensors"), found, {"format": "mlx"})


def other_bits(folder: Path) -> None:
    path = "model.layers.1.mlp.switch_mlp.up_proj"
    quantised = json.loads((folder / "config.json").read_text())["quantization"]
    config(folder, quantization={**quantised, path: {"group_size": 32, "bits": 8, "mode": "affine"}})


def zeros(*shape: int) -> mx.array:
    return mx.zeros(shape)


REFUSED: dict[str, tuple[str, Change]] = {
    "prediction layers of no family": (
        "2 tensors that this kind of model does not have: 'mtp.fc.weight', 'mtp.layers.0.switch_mlp.up_proj.weight'",
        lambda f: weights(f, mtp__fc__weight=zeros(8, 8), mtp__layers__0__switch_mlp__up_proj__weight=zeros(4, 8, 8)),
    ),
    "a vision tower": (
        "1 tensor that this kind of model does not have: 'vision_tower.patch.weight'",
        lambda f: weights(f, vision_tower__patch__weight=zeros(8, 8)),
    ),
    "a head missing": (
        "1 tensor missing: 'lm_head.weight'",
        lambda f: weights(f, *(f"lm_head.{p}" for p in ("weight", "scales", "biases"))),
    ),
    "a norm missing": ("1 tensor missing: 'model.norm.weight'", lambda f: weights(f, "model.norm.weight")),
    "scales of another scheme": (
        "'model.layers.0.self_attn.q_proj.weight_scale_inv'",
        lambda f: weights(f, model__layers__0__self_attn__q_proj__weight_scale_inv=mx.ones((1, 1))),
    ),
    "a key missing": ("'num_attention_heads'", lambda f: config(f, num_attention_heads=...)),
    "no tokenizer": ("the tokenizer cannot be loaded", lambda f: (f / "tokenizer.json").unlink()),
    "other bits": ("model.layers.1.mlp.switch_mlp.up_proj.weight has shape", other_bits),
    "another width of the experts": ("and 9 others differ too", lambda f: config(f, moe_intermediate_size=128)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("proof") / "source", quantization=AFFINE4)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_loaded_is_refused_before_the_first_write(
    case: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(made, tmp_path / "source"))
    said, change = REFUSED[case]
    change(source)
    before = contents(source)
    assert main(["convert", "--model", str(source), "--mlx-path", str(tmp_path / "store")]) == 3
    assert said in capsys.readouterr().err
    assert contents(source) == before
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


#: Tensors that a family's `sanitize` drops; one of them is as large as the model's own layer of experts.
DROPPED: dict[str, dict[str, mx.array]] = {
    "glm4_moe": {
        "model.layers.3.eh_proj.weight": zeros(64, 128),
        "model.layers.3.embed_tokens.weight": zeros(128, 64),
        "model.layers.3.mlp.switch_mlp.up_proj.weight": zeros(16, 64, 64),
        "model.layers.3.shared_head.head.weight": zeros(128, 64),
    },
    "deepseek_v3": {
        "model.layers.61.eh_proj.weight": zeros(64, 128),
        "model.layers.0.self_attn.rotary_emb.inv_freq": zeros(16),
    },
    "qwen3_5_moe": {"language_model.mtp.fc.weight": zeros(64, 128), "vision_tower.patch.weight": zeros(8, 8)},
    "gemma4": {"vision_tower.patch.weight": zeros(8, 8), "embed_vision.weight": zeros(8, 8)},
    "exaone_moe": {"mtp.fc.weight": zeros(64, 128)},
}


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("family", DROPPED)
def test_what_loading_drops_is_neither_counted_nor_copied(family: str, tmp_path: Path) -> None:
    source, store = tiny_checkpoint(family, tmp_path / "source"), tmp_path / "store"
    weights(source, **DROPPED[family])
    expected, _ = mlx_lm.load(str(source))
    said: list[str] = []
    summary = convert(str(source), store, prove=prove, say=said.append)
    assert set(summary.left_out) == set(DROPPED[family])
    assert summary.left_out_bytes == sum(array.nbytes for array in DROPPED[family].values())
    assert "mlx-lm drops while it loads" in said[0]
    assert not set(tensors(store)) & set(DROPPED[family])
    everything = sum(array.nbytes for _, array in tree_flatten(expected.parameters()))
    for folder in (source, store):
        assert local_shape(folder).nbytes == everything
        model, _ = moe_mlx.load(folder, expert_cache="50%", routing="exact", decode="readback", say=said.append)
        runtime = moe_mlx.runtime_of(model)
        resident = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
        assert runtime.plan.resident_weights == resident == everything - runtime.source.experts_nbytes
        assert runtime.plan.experts_total == runtime.source.experts_nbytes
        assert same(answer(model), answer(expected))
        runtime.close()


def test_a_tensor_is_kept_whose_name_alone_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_lm.models import qwen3_moe

    own = qwen3_moe.Model.sanitize

    def sanitize(self: Any, given: dict[str, mx.array]) -> dict[str, mx.array]:
        raw = given.pop("unshifted", None) is not None
        found = own(self, given)
        return {name: array + 1 if raw and name.endswith("norm.weight") else array for name, array in found.items()}

    monkeypatch.setattr(qwen3_moe.Model, "sanitize", sanitize)
    source = tiny_checkpoint("qwen3_moe", tmp_path / "source")
    weights(source, unshifted=mx.zeros((1,)))
    assert convert(str(source), tmp_path / "store", prove=prove).left_out == ()
    assert "unshifted" in tensors(tmp_path / "store")


def test_an_array_s_origins_are_found_through_whatever_was_done_to_it() -> None:
    a, b, c = mx.ones((2, 2)), mx.ones((2, 2)), mx.ones((2,))
    found = origins({"sum": mx.concatenate([a, b])[1:] + 1, "a": a}, {"a": a, "b": b, "c": c})
    assert found["a"] == (frozenset({"a"}), ())
    assert found["sum"][0] == {"a", "b"}
    assert found["sum"] != origins({"sum": mx.concatenate([a, b])[1:]}, {"a": a, "b": b})["sum"]
