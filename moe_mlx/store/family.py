"""What is to be known of a model family to find its routed experts, and the counts that its config gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moe_mlx.errors import UnsupportedModelError

#: SwitchGLU, SwitchMLP and dbrx's MLP: projections in the order in which an expert's file holds them.
GLU = ("gate_proj", "up_proj", "down_proj")
MLP = ("fc1", "fc2")
DBRX = ("w1", "v1", "w2")
ZAYA = ("linear_fc1", "linear_fc2")
#: mlx-vlm's switches that compute gate and up at once.
FUSED = ("gate_up_proj", "down_proj")
#: Parts of one projection, in the order in which an expert's file holds them.
PARTS = ("weight", "scales", "biases", "bias", "global_scale")

#: Where multimodal configs keep the language model's.
TEXT_CONFIGS = ("text_config", "language_config", "llm_config", "thinker_config.text_config")


@dataclass(frozen=True, slots=True)
class Family:
    """How one family names its experts.

    Attributes:
        switch: Path of the switch inside a layer.
        experts: Key of the number of routed experts in the config.
        top_k: Key of the number of experts chosen for a token; a list holds one number per layer.
        defaults: What mlx-lm assumes where the config has no such key.
        containers: Paths of the list of layers: the model's own first, then names that its `sanitize` maps to it.
        layers: Key of the number of layers: experts beyond it belong to multi-token prediction, which mlx-lm drops;
            empty where such layers have a container of their own.
        projections: Members of one expert.
        factors: Tensors of the switch itself that have one number an expert.
        always: Experts beyond the config's number that every token takes: shared ones, packed among the routed.
        first: Key of the first layer with routed experts, where dense layers before it name their tensors alike.
        unstacked: True where each expert is a module of its own (dbrx), not a row of a stacked tensor.
    """

    switch: str = "mlp.switch_mlp"
    experts: str = "num_experts"
    top_k: str = "num_experts_per_tok"
    defaults: Mapping[str, int] = field(default_factory=dict)
    containers: tuple[str, ...] = ("model.layers",)
    layers: str = "num_hidden_layers"
    projections: tuple[str, ...] = GLU
    unstacked: bool = False
    factors: tuple[str, ...] = ()
    always: int = 0
    first: str = ""


def _lookup(config: Mapping[str, Any], family: Family, key: str) -> Any:
    """Looks `key` up where the text part of a model keeps it, and at the top after that."""
    for text in (*TEXT_CONFIGS, ""):
        value: Any = config
        for step in (*text.split("."), *key.split(".")):
            value = value if not step else value.get(step) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return family.defaults.get(key)


def _whole(value: Any, key: str, where: object) -> int:
    if type(value) is not int or value < 0:
        raise UnsupportedModelError(f"{where}: config.json has {key} = {value!r}; a whole number is needed.")
    return value


def expert_count(config: Mapping[str, Any], family: Family, where: object) -> int:
    """Returns the number of routed experts a layer has by its config; 0 for a dense model of the family."""
    value = _lookup(config, family, family.experts)
    if isinstance(value, list) and value:
        value = value[0]  # ERNIE 4.5 VL: for text, then for pictures
    count = 0 if value is None else _whole(value, family.experts, where)
    return count + family.always if count else 0


def top_k(config: Mapping[str, Any], family: Family, layer: int, where: object) -> int:
    """Returns how many experts layer number `layer` chooses for a token."""
    value = _lookup(config, family, family.top_k)
    if isinstance(value, list):
        value = value[layer] if layer < len(value) else None
    if value is None:
        raise UnsupportedModelError(f"{where}: config.json has no {family.top_k} for layer {layer}.")
    return _whole(value, family.top_k, where) + family.always


def first_layer(config: Mapping[str, Any], family: Family) -> int:
    """Returns the number of the first layer that may have routed experts."""
    value = _lookup(config, family, family.first) if family.first else 0
    return value if type(value) is int else 0


def layer_count(config: Mapping[str, Any], family: Family) -> int | None:
    """Returns the number of layers that the model runs, or None where the config leaves it to a default."""
    value = _lookup(config, family, family.layers) if family.layers else None
    return value if type(value) is int else None
