"""Writes a model with its head as such models are published: one more layer, which holds the head."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import save_config

from moe_mlx.store.demo import demo_path

from .network import ModelWithHead


def published(network: ModelWithHead, layers: int) -> dict[str, mx.array]:
    """Returns the tensors under their names; the head's experts one by one, as its splitter expects them.

    Args:
        network: Trained.
        layers: Of the model, the head not among them.
    """
    tensors = dict(tree_flatten(network.model.parameters()))
    for name, value in tree_flatten(network.head.mtp.parameters()):
        own = f"model.layers.{layers}.{name.replace('shared_head_norm', 'shared_head.norm')}"
        if ".switch_mlp." in own:
            for expert in range(value.shape[0]):
                tensors[own.replace("switch_mlp", f"experts.{expert}")] = value[expert]
        else:
            tensors[own] = value
    return tensors


def save_published(network: ModelWithHead, config: dict[str, Any], folder: Path) -> None:
    """Writes weights and config, and the demo's tokenizer, which it was trained with."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = published(network, config["num_hidden_layers"])
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "mlx"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    save_config(config, folder / "config.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo_path() / name, folder / name)
