"""Whether a model's weights are those that its config asks for: names, shapes, groups. Nothing is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from moe_mlx.errors import StoreCorruptError

#: Tensors that a message names.
_SHOWN = 3


def check_fit(folder: Path, model: nn.Module, weights: Mapping[str, mx.array]) -> None:
    """Compares tensors with a model's parameters, as strict loading does, and names those that differ.

    Raises:
        StoreCorruptError: tensors that the model does not have, that are missing, or of another shape.
    """
    wanted: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    said = []
    if strange := [name for name in weights if name not in wanted]:
        said.append(f"{_counted(strange)} that this kind of model does not have: {_listed(strange)}")
    if missing := [name for name in wanted if name not in weights]:
        said.append(f"{_counted(missing)} missing: {_listed(missing)}")
    if said:
        raise StoreCorruptError(f"{folder}: {'; '.join(said)}. {_advice(strange)}")
    if other := [name for name, array in weights.items() if array.shape != wanted[name].shape]:
        shapes = [
            f"{name[:80]} has shape {list(weights[name].shape)}, config.json asks for {list(wanted[name].shape)}"
            for name in other[:_SHOWN]
        ]
        more = f", and {len(other) - _SHOWN} others differ too" if len(other) > _SHOWN else ""
        raise StoreCorruptError(f"{folder}: {'; '.join(shapes)}{more}. Fetch the model again.")


def _counted(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}"


def _listed(names: Iterable[str]) -> str:
    shown = sorted(names)
    more = ", ..." if len(shown) > _SHOWN else ""
    return ", ".join(repr(name[:80]) for name in shown[:_SHOWN]) + more


def _advice(strange: list[str]) -> str:
    if any("scale" in name.rsplit(".", 1)[-1] and not name.endswith(".scales") for name in strange):
        return "They are quantised in a way that mlx-lm does not unpack: take an MLX or an unquantised checkpoint."
    return "config.json and the weights are not of one model, or mlx-lm does not know this one: fetch it again."


def check_groups(folder: Path, model: nn.Module, weights: Mapping[str, mx.array], config: Mapping[str, Any]) -> None:
    """Refuses quantisation in groups of nothing: MLX divides by the group's size where a zero ends the process.

    Raises:
        StoreCorruptError: config.json names such a group, or scales that do not fit the model's shapes imply it.
    """
    named = config.get("quantization") or config.get("quantization_config")
    for path, module in model.named_modules():
        weight, scales = getattr(module, "weight", None), weights.get(f"{path}.scales")
        if not hasattr(module, "to_quantized") or weight is None:
            continue
        asked = named.get(path) if isinstance(named, dict) else None
        if isinstance(asked, dict):
            size = asked.get("group_size", 1)
        elif scales is not None and scales.ndim:
            size = weight.shape[-1] // max(1, scales.shape[-1])
        else:
            continue
        if size is not None and (type(size) is not int or size < 1):
            raise StoreCorruptError(
                f"{folder}: {path} is quantised in groups of {str(size)[:80]}; config.json does not fit the weights. "
                "Fetch the model again."
            )
