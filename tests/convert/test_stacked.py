"""Checkpoints in their published form, stacked by mlx-lm while loading, end up as what mlx-lm runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm import utils

from moe_mlx.catalogue.found import find_models
from moe_mlx.cli import main
from moe_mlx.errors import MoeMlxError, UnsupportedModelError
from moe_mlx.planning.shape import local_shape
from moe_mlx.store import open_source
from moe_mlx.store.locate import StackedAtLoadError
from moe_mlx_convert import convert, verify
from tests.checkpoints import GPT_OSS, QWEN3_MOE, make_checkpoint
from tests.convert.contents import expert, raw, tensors

MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 128,
    "rms_norm_eps": 1e-6,
}
GRANITE = {
    **MIXTRAL,
    "model_type": "granitemoe",
    "logits_scaling": 1.0,
    "attention_multiplier": 1.0,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "max_position_embeddings": 128,
    "attention_bias": False,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
DBRX = {
    "model_type": "dbrx",
    "vocab_size": 128,
    "d_model": 64,
    "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    "attn_config": {"kv_n_heads": 1, "clip_qkv": 8.0, "rope_theta": 10000.0},
    "n_layers": 2,
    "n_heads": 2,
}


def unstack(weights: dict[str, mx.array], switch: str, names: dict[str, str]) -> dict[str, mx.array]:
    """Undoes the stacking of `switch_mlp` into `experts.N`."""
    published = {}
    for name, array in weights.items():
        head, found, tail = name.partition(".switch_mlp.")
        if not found:
            published[name] = array
            continue
        projection, part = tail.split(".")
        for e in range(array.shape[0]):
            published[f"{head}.{switch}.{e}.{names.get(projection, projection)}.{part}"] = array[e]
    return published


def granite_form(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    published = {}
    for name, array in weights.items():
        if ".switch_mlp.gate_proj" in name:
            up = weights[name.replace("gate_proj", "up_proj")]
            published[name.replace("switch_mlp.gate_proj", "input_linear")] = mx.concatenate([array, up], axis=1)
        elif ".switch_mlp.down_proj" in name:
            published[name.replace("switch_mlp.down_proj", "output_linear")] = array
        elif ".switch_mlp." not in name:
            published[name] = array
    return published


def gpt_oss_form(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    def interleave(gate: mx.array, up: mx.array) -> mx.array:
        return mx.stack([gate, up], axis=2).reshape(gate.shape[0], -1, *gate.shape[2:])

    published = {}
    for name, array in weights.items():
        if ".experts.gate_proj." in name:
            up = weights[name.replace("gate_proj", "up_proj")]
            joined = interleave(array, up)
            stem = name.replace("gate_proj", "gate_up_proj")
        elif ".experts.down_proj." in name:
            joined, stem = array, name
        elif ".experts." in name:
            continue
        else:
            published[name] = array
            continue
        if stem.endswith(".bias"):
            published[stem.removesuffix(".bias") + "_bias"] = joined
        elif stem.endswith(".scales"):
            published[stem.removesuffix(".scales") + "_scales"] = joined
        else:
            blocks = joined.view(mx.uint8).reshape(*joined.shape[:2], -1, 16)
            published[stem.removesuffix(".weight") + "_blocks"] = blocks
    return published


def dbrx_form(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    published: dict[str, mx.array] = {}
    parts: dict[str, list[mx.array]] = {}
    for name, array in weights.items():
        head, found, tail = name.partition(".experts.")
        if found:
            projection = tail.split(".")[1]
            parts.setdefault(f"{head}.experts.mlp.{projection}", []).append(array.T if projection == "w2" else array)
        else:
            published[name] = array
    return published | {name: mx.concatenate(arrays) for name, arrays in parts.items()}


FORMS: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[..., dict[str, mx.array]]]] = {
    "qwen3_moe": (QWEN3_MOE, {"dtype": "bfloat16"}, lambda w: unstack(w, "experts", {})),
    "mixtral": (MIXTRAL, {}, lambda w: unstack(w, "experts", {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"})),
    "granitemoe": (GRANITE, {"dtype": "float16"}, granite_form),
    "gpt_oss": (
        GPT_OSS,
        {
            "dtype": "bfloat16",
            "quantize": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
            "predicate": lambda p, _: "experts" in p,
        },
        gpt_oss_form,
    ),
    "dbrx": (DBRX, {}, dbrx_form),
}


def publish(form: str, folder: Path) -> Path:
    config, options, unmake = FORMS[form]
    mlx_form = make_checkpoint(folder / "mlx", config, **options)
    published = folder / "published"
    published.mkdir()
    weights = unmake(tensors(mlx_form))
    names = sorted(weights)
    for i, half in enumerate((names[::2], names[1::2])):  # experts of one layer spread over both shards
        mx.save_safetensors(str(published / f"model-{i + 1:05}-of-00002.safetensors"), {n: weights[n] for n in half})
    settings = json.loads((mlx_form / "config.json").read_text())
    if "quantization" in settings:
        settings = {k: v for k, v in settings.items() if not k.startswith("quantization")}
        settings["quantization_config"] = {"quant_method": "mxfp4"}
    (published / "config.json").write_text(json.dumps(settings))
    return published


@pytest.mark.parametrize("form", FORMS)
def test_the_store_holds_what_mlx_lm_runs(form: str, tmp_path: Path) -> None:
    published = publish(form, tmp_path)
    with pytest.raises(StackedAtLoadError, match="Convert the checkpoint first"):
        open_source(published)
    summary = convert(str(published), tmp_path / "store")
    assert summary.method == "arrays"
    assert summary.peak_array_bytes > 0
    assert verify(tmp_path / "store").ok
    before, after = local_shape(published), local_shape(tmp_path / "store")
    assert before.to_convert and not after.to_convert
    assert (before.layers, before.resident_nbytes) == (after.layers, after.resident_nbytes)
    model, _ = utils.load_model(published)
    loaded = dict(tree_flatten(model.parameters()))
    with open_source(tmp_path / "store") as store:
        for layer in store.layers:
            for number in range(layer.experts):
                for tensor, got in zip(layer.tensors, expert(store, layer.index, number), strict=True):
                    if form == "dbrx":
                        row = loaded.pop(f"{layer.path}.{number}.{tensor.name}")
                    else:
                        row = loaded[f"{layer.path}.{tensor.name}"][number]
                    assert got == raw(row)
            for tensor in layer.tensors:
                loaded.pop(f"{layer.path}.{tensor.name}", None)
    resident = tensors(tmp_path / "store")
    assert set(resident) == set(loaded)
    assert all(raw(resident[name]) == raw(array) for name, array in loaded.items())


def test_what_is_still_to_be_converted_is_planned_from_its_headers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = publish("qwen3_moe", tmp_path)
    assert main(["plan", str(published), "--memory", "16GB"]) == 0
    assert "a checkpoint, to be converted before it runs" in capsys.readouterr().out
    assert main(["plan", str(published), "--memory", "16GB", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to_convert"]
    listed = {entry.path: entry for entry in find_models([tmp_path])}[published]
    assert listed.form == "to convert" and listed.nbytes and "has to be converted first" in listed.problem


def test_dbrx_in_its_mlx_form_runs_in_place(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", DBRX)
    weights = tensors(source)
    assert convert(str(source), tmp_path / "store").method == "bytes"
    for folder in (source, tmp_path / "store"):
        with open_source(folder) as opened:
            layer = opened.layers[1]
            assert (layer.path, layer.experts, layer.top_k) == ("transformer.blocks.1.ffn.experts", 4, 2)
            rows = [raw(weights[f"{layer.path}.3.{t.name}"]) for t in layer.tensors]
            assert expert(opened, 1, 3) == rows


def test_weights_that_mlx_lm_unpacks_later_are_refused(tmp_path: Path) -> None:
    published = publish("qwen3_moe", tmp_path)
    settings = json.loads((published / "config.json").read_text())
    awq = {"quant_method": "awq", "bits": 4, "group_size": 32}
    (published / "config.json").write_text(json.dumps({**settings, "quantization_config": awq}))
    weights = tensors(published)
    projection = "model.layers.0.self_attn.q_proj"
    weights.pop(f"{projection}.weight")
    weights |= {f"{projection}.qweight": mx.zeros((64, 8), mx.uint32), f"{projection}.scales": mx.ones((2, 64))}
    mx.eval(weights)
    for path in published.glob("model*"):
        path.unlink()
    mx.save_safetensors(str(published / "model.safetensors"), weights)
    utils.load_model(published, lazy=True)
    with pytest.raises(UnsupportedModelError, match=r"mlx_lm\.convert first"):
        convert(str(published), tmp_path / "store")
    assert not list(tmp_path.glob("store*"))


def described(name: str, renamed: str = "", **fields: Any) -> Callable[[Path], object]:
    """Changes what a shard's header says of a tensor, whose bytes stay."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        text = path.read_bytes()
        end = 8 + int.from_bytes(text[:8], "little")
        entries = json.loads(text[8:end])
        entries[renamed or name] = {**entries.pop(name), **fields}
        head = json.dumps(entries).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + text[end:])

    return change


NORM = "model.norm.weight"
UNREADABLE: dict[str, Callable[[Path], object]] = {
    "generation settings that are a list": lambda folder: (folder / "generation_config.json").write_text("[]"),
    "a config in UTF-16": lambda folder: (folder / "config.json").write_bytes(
        (folder / "config.json").read_text().encode("utf-16")
    ),
    "a dtype that MLX has not": described(NORM, dtype="F64", shape=[32]),
    "a name that is half a character": described(NORM, renamed="\ud800"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_mlx_lm_cannot_read_is_one_error(case: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source")
    weights = unstack(tensors(source), "experts", {})
    mx.eval(weights)
    for path in source.glob("model*"):
        path.unlink()
    mx.save_safetensors(str(source / "model.safetensors"), weights)
    UNREADABLE[case](source)
    with pytest.raises(MoeMlxError) as caught:
        convert(str(source), tmp_path / "store")
    assert caught.value.exit_code in (2, 3)
    assert str(source) in str(caught.value)
    assert not (tmp_path / "store.partial").exists()
