"""Tiny real checkpoints of every family, made by mlx-lm's own classes, quantised by mlx-lm's own functions."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm import utils

from tests.families.configs import UNQUANTISED, config
from tests.tiny_tokenizer import tiny_tokenizer

AFFINE4 = {"group_size": 32, "bits": 4, "mode": "affine"}
QWEN3_MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 32,
    "rms_norm_eps": 1e-6,
    "vocab_size": 128,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "max_position_embeddings": 512,
    "norm_topk_prob": True,
}
GPT_OSS: dict[str, Any] = {
    "model_type": "gpt_oss",
    "num_hidden_layers": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 64,
    "head_dim": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
}


def make_checkpoint(
    folder: Path,
    config: dict[str, Any] | None = None,
    *,
    dtype: str = "float32",
    quantize: dict[str, Any] | None = None,
    predicate: Any = None,
    shard_bytes: int | None = None,
    seed: int = 0,
    fill: Callable[[nn.Module], None] | None = None,
    **overrides: Any,
) -> Path:
    """Builds, quantises and saves a random model.

    Args:
        folder: Where to save it; made if needed.
        config: The model's config, QWEN3_MOE by default.
        dtype: Of the weights before quantisation.
        quantize: `{"group_size", "bits", "mode"}`, and `"global_scale": True` for scales of the experts' own (nvfp4).
        predicate: Passed to mlx_lm's quantize_model, for mixed quantisation.
        shard_bytes: Largest shard; one shard by default.
        seed: Of the random weights.
        fill: Gives the model its weights; by default all of them are small noise of `dtype`.
        overrides: Entries of the config to change.
    """
    config = copy.deepcopy({**(config or QWEN3_MOE), **overrides})
    model_class, args_class = utils._get_classes(config)
    mx.random.seed(seed)
    model = model_class(args_class.from_dict(copy.deepcopy(config)))
    if fill is None:
        noise = tree_map(lambda a: mx.random.normal(a.shape) * 0.05, model.parameters())
        model.update(tree_map(lambda a: a.astype(getattr(mx, dtype)), noise))
    else:
        fill(model)
    if quantize is not None:
        model, config = utils.quantize_model(
            model,
            config,
            quantize.get("group_size"),
            quantize.get("bits"),
            mode=quantize.get("mode", "affine"),
            quant_predicate=predicate,
            global_scale=quantize.get("global_scale", False),
        )
    mx.eval(model.parameters())
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder, dict(tree_flatten(model.parameters())), shard_bytes)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tiny_tokenizer(folder)
    return folder


def tiny_checkpoint(
    family: str, folder: Path, *, quantization: dict[str, Any] | None = None, seed: int = 0, **overrides: Any
) -> Path:
    """Makes a tiny random float32 checkpoint that `mlx_lm.load` accepts, tokenizer and chat template included.

    Args:
        family: A row of `tests.families.configs`.
        folder: Where to write; made if missing.
        quantization: As `quantize` of `make_checkpoint`, such as `AFFINE4`; none keeps float32.
        seed: Of the weights.
        overrides: Entries of the config to change.
    """
    if quantization is not None and family in UNQUANTISED:
        pytest.skip(f"{family} takes no quantisation but its own")
    make_checkpoint(folder, config(family), quantize=quantization, seed=seed, fill=fill_constants, **overrides)
    return folder


def fill_constants(model: nn.Module) -> None:
    """Gives every constant parameter (routers, correction biases, norms) a random value, in float32."""
    fresh = []
    for name, old in tree_flatten(model.parameters()):
        if not mx.issubdtype(old.dtype, mx.floating):
            continue
        new = old.astype(mx.float32)
        if new.size > 1 and bool(mx.all(new == new.reshape(-1)[0])):
            scale = 2 / math.sqrt(new.shape[-1]) if new.ndim > 1 else 0.05
            new = new + scale * mx.random.normal(new.shape)
        fresh.append((name, new))
    model.update(tree_unflatten(fresh))
    mx.eval(model.parameters())


def _save(folder: Path, weights: dict[str, Any], shard_bytes: int | None) -> None:
    shards: list[dict[str, Any]] = [{}]
    size = 0
    for name, array in weights.items():
        if shard_bytes is not None and size and size + array.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = array
        size += array.nbytes
    weight_map = {}
    for i, shard in enumerate(shards):
        name = "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        mx.save_safetensors(str(folder / name), shard, metadata={"format": "mlx"})
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": sum(a.nbytes for a in weights.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
