"""A layer of quantised experts, by its shapes."""

from __future__ import annotations

from moe_mlx.store.spec import ExpertLayer, TensorSpec


def layer_of(bits: int, width: int = 96, hidden: int = 64) -> ExpertLayer:
    """A GLU expert in groups of 32, its intermediate rows `width`, its outputs `hidden`."""
    tensors = []
    for name, rows, inputs in (("gate", width, hidden), ("up", width, hidden), ("down", hidden, width)):
        tensors.append(TensorSpec(f"{name}_proj.weight", "U32", (rows, inputs * bits // 32)))
        tensors += [TensorSpec(f"{name}_proj.{part}", "F16", (rows, inputs // 32)) for part in ("scales", "biases")]
    return ExpertLayer(0, 0, "model.layers.0.mlp.switch_mlp", 4, 2, tuple(tensors))
