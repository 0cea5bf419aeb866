"""A sound manifest, to be harmed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moe_mlx.store.layout import Manifest, StoredFile, StoredLayer, expert_header, narrower_of
from moe_mlx.store.parts import ExpertLayout, Halves, layout_of
from moe_mlx.store.spec import ExpertLayer, TensorSpec

QUANTISED = tuple(
    TensorSpec(f"{projection}.{part}", dtype, shape)
    for projection in ("gate_proj", "down_proj")
    for part, dtype, shape in (("weight", "U32", (4, 8)), ("scales", "F16", (4, 2)), ("biases", "F16", (4, 2)))
)
WHERE = Path("somewhere/store.json")

DIGEST = "0123456789abcdef" * 2


def good(version: int = 1) -> Manifest:
    """Returns a manifest; of version 2 nested and in two row blocks, of version 3 with experts of 2, 3 and 4 bits."""
    tensors = (TensorSpec("gate_proj.weight", "BF16", (2, 3)), TensorSpec("gate_proj.global_scale", "F32", ()))
    layers = []
    for index in range(2):
        layer = ExpertLayer(index, index + 1, f"model.layers.{index + 1}.mlp.switch_mlp", 3, 2, tensors)
        layout = layout_of(layer) if version == 1 else nested(layer)
        layout = layout_of(replace(layer, tensors=QUANTISED)) if version == 3 else layout
        bits = (2, 4, 3) if version == 3 else ()
        given = (bits, 0.25, narrower_of(layout, bits)) if bits else ()
        offset = len(expert_header(layout, 0))
        layers.append(StoredLayer(layout, offset, (DIGEST,) * 3, (DIGEST,) * 3 * layout.digests, *given))
    resident, files = (StoredFile("model.safetensors", 10, DIGEST),), (StoredFile("config.json", 2, DIGEST),)
    text = "a text" if version == 3 else ""
    return Manifest("owner/model", "abc", "qwen3_moe", tuple(layers), resident, files, 10, text)


def nested(layer: ExpertLayer) -> ExpertLayout:
    """Returns a layer with quantised experts, nested and in two row blocks."""
    return layout_of(replace(layer, tensors=QUANTISED), {0: Halves(4, 2), 3: Halves(4, 2)}, 2)
