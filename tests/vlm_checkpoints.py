"""Tiny real checkpoints of mlx-vlm's families, made by its own classes; and what it answers itself."""

from __future__ import annotations

import copy
import json
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from tests.checkpoints import fill_constants
from tests.families.calls import CALLS, Outputs
from tests.families.vlm_configs import vlm_config
from tests.tiny_tokenizer import tiny_tokenizer


def build(config: dict[str, Any]) -> nn.Module:
    """Returns mlx-vlm's model of a config, its weights random."""
    from mlx_vlm import utils

    config = copy.deepcopy(config)
    for name in ("text_config", "vision_config", "audio_config"):
        config.setdefault(name, {})
    package, _ = utils.get_model_and_args(config)
    made = package.ModelConfig.from_dict(config)
    made = utils.update_module_configs(made, package, config, ["text", "vision", "perceiver", "projector", "audio"])
    return package.Model(made)


def vlm_checkpoint(
    name: str, folder: Path, quantize: dict[str, Any] | None = None, config: dict[str, Any] | None = None
) -> Path:
    """Makes a tiny random float32 checkpoint that `mlx_vlm.load` accepts, tokenizer included.

    Args:
        name: A row of `tests.families.vlm_configs`, unless a config is given.
        folder: Where to write.
        quantize: `{"group_size", "bits", "mode"}`; what does not divide stays as it is, as mlx-vlm leaves it.
        config: Of a family that both libraries have.
    """
    config = copy.deepcopy(config or vlm_config(name))
    mx.random.seed(0)
    model = build(config)
    fill_constants(model)
    if quantize is not None:
        nn.quantize(model, **quantize, class_predicate=_quantised)
        config["quantization"] = config["quantization_config"] = quantize
    weights = dict(tree_flatten(model.parameters()))
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    tiny_tokenizer(folder)
    return folder


def small_towers(patch: pytest.MonkeyPatch) -> None:
    """Makes the towers small whose size mlx-vlm reads from no config, for whoever builds them."""
    sam = {"width": 32, "layers": 1, "heads": 2, "image_size": 64, "window_size": 4}
    for package in ("deepseekocr", "deepseekocr_2"):
        module = import_module(f"mlx_vlm.models.{package}.{package}")
        patch.setattr(module, "SAMViTConfig", partial(module.SAMViTConfig, **sam))
    vision = import_module("mlx_vlm.models.deepseekocr_2.vision")
    qwen2 = vision.Qwen2EncoderConfig(dim=896, layers=1, heads=14, kv_heads=2, intermediate_size=64)
    patch.setattr(vision, "Qwen2EncoderConfig", lambda **given: qwen2)


def _quantised(path: str, module: nn.Module) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0 and module.weight.size % 64 == 0


def vlm_answer(folder: Path) -> Outputs:
    """Returns what mlx-vlm answers: its own loading, its own embedding of the first prompt, its language model."""
    from mlx_vlm import utils
    from mlx_vlm.models.cache import make_prompt_cache

    model = utils.load_model(folder)
    cache = make_prompt_cache(model.language_model)
    outputs = []
    for number, tokens in enumerate(CALLS):
        ids = mx.array([tokens])
        given = {}
        if not number:
            embedded = model.get_input_embeddings(ids, None).to_dict()
            given = {name: value for name, value in embedded.items() if value is not None}
        outputs.append(model.language_model(ids, cache=cache, **given).logits)
        mx.eval(outputs[-1])
    return outputs
