"""Where a library put a layer's stacked experts, told by the placeholders that it was given for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from moe_mlx.errors import UnsupportedModelError
from moe_mlx.families.apart import experts_apart
from moe_mlx.loading.graph import origins
from moe_mlx.store import ExpertLayer


def find_switches(
    model: nn.Module,
    layers: tuple[ExpertLayer, ...],
    owners: Mapping[int, tuple[int, str]],
    kept: Mapping[str, mx.array],
) -> list[tuple[str, nn.Module]]:
    """Follows placeholders to where the library put them, and makes switches of what holds them and is none.

    Args:
        model: Loaded.
        layers: Its MoE layers.
        owners: `id` of a placeholder -> number of its layer, and its name in the switch.
        kept: The placeholders, by their names in a checkpoint.

    Returns:
        Per layer the switch's module path and module.

    Raises:
        UnsupportedModelError: the library makes something else of the experts while it loads.
    """
    found: dict[int, str] = {}
    parameters = dict(tree_flatten(model.parameters()))
    for full, value in parameters.items():
        if id(value) not in owners:
            continue
        index, name = owners[id(value)]
        if not full.endswith(f".{name}"):
            raise UnsupportedModelError(f"{layers[index].path}.{name} was loaded as {full}: convert cannot know why")
        found[index] = full[: -len(name) - 1]
    if len(found) < len(layers):
        found |= _renewed(parameters, layers, kept)
    modules = dict(model.named_modules())
    missing = [layer for layer in layers if layer.index not in found]
    if missing:
        raise UnsupportedModelError(
            f"{missing[0].path}: mlx-lm rebuilds these experts while it loads, so their bytes cannot be used as they "
            "are. Convert the model with mlx_lm.convert first."
        )
    return [experts_apart(found[layer.index], modules[found[layer.index]]) for layer in layers]


def _renewed(
    parameters: Mapping[str, mx.array], layers: Sequence[ExpertLayer], kept: Mapping[str, mx.array]
) -> dict[int, str]:
    """Returns where the experts of layers lie of whose arrays the library made new ones with the same contents."""
    made = origins({name: parameters[name] for name in kept if name in parameters}, kept)
    same = {
        name
        for name, (inputs, operations) in made.items()
        if inputs == {name}
        and {operation for operation, _ in operations} <= {"AsType"}  # as `mx.array(array)` does
        and parameters[name].dtype == kept[name].dtype
    }
    return {
        layer.index: layer.path
        for layer in layers
        if all(f"{layer.path}.{spec.name}" in same for spec in layer.tensors)
    }
