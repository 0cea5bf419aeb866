"""A sound manifest, to be harmed."""

from __future__ import annotations

from pathlib import Path

from moe_mlx.store.layout import Manifest, StoredFile, StoredLayer, expert_header
from moe_mlx.store.spec import ExpertLayer, TensorSpec

WHERE = Path("somewhere/store.json")

DIGEST = "0123456789abcdef" * 2


def good() -> Manifest:
    tensors = (TensorSpec("gate_proj.weight", "BF16", (2, 3)), TensorSpec("gate_proj.global_scale", "F32", ()))
    layers = []
    for index in range(2):
        layer = ExpertLayer(index, index + 1, f"model.layers.{index + 1}.mlp.switch_mlp", 3, 2, tensors)
        layers.append(StoredLayer(layer, len(expert_header(layer, 0)), (DIGEST,) * 3))
    resident, files = (StoredFile("model.safetensors", 10, DIGEST),), (StoredFile("config.json", 2, DIGEST),)
    return Manifest("owner/model", "abc", "qwen3_moe", tuple(layers), resident, files, 10)
