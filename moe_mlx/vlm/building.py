"""Builds mlx-vlm's own model over tensors that were checked: its `load_model` is run, with our reading in its place.

mlx-vlm's code (sanitize of every part, quantisation, strict loading) runs as it is; four names that it looks up are
ours: what reads the config, what finds and reads shards (its own writes to a shard's header where MLX does not know a
dtype), and what loads the tensors, so that they can be looked at first. It sees no folder.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mlx import nn

from moe_mlx.errors import UnsupportedModelError
from moe_mlx.store.families import vlm_type
from moe_mlx.store.vlm_families import VLM_FAMILIES, WITH_PICTURES
from moe_mlx.system.names import with_names
from moe_mlx.vlm.calling import answer_with_logits
from moe_mlx.vlm.installed import require

#: A folder that mlx-vlm finds nothing in.
_NOWHERE = Path(os.devnull, "model")
#: Gets the model, its tensors as they will be loaded, and the config; raises where they do not fit.
Check = Callable[[nn.Module, Mapping[str, Any], Mapping[str, Any]], None]


def build_model(
    folder: Path, config: Mapping[str, Any], weights: dict[str, Any], check: Check
) -> tuple[nn.Module, dict[str, Any]]:
    """Builds a model and lets mlx-lm's loops call it.

    Args:
        folder: Named in errors; its config and shards are not read.
        config: Its config.json, with what its generation_config.json says.
        weights: Its tensors, lazy.
        check: Called before the tensors are loaded.

    Returns:
        The model, lazy, and its config as mlx-vlm completed it.

    Raises:
        UnsupportedModelError: mlx-vlm is not there, or the model wants something that is not done here.
        Exception: whatever mlx-vlm's code raises over a config or tensors that it does not know.
    """

    def load_weights(
        model: nn.Module, config: dict[str, Any], weights: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        from mlx_vlm import utils

        check(model, weights, config)
        return utils.load_model_weights(model, config, weights, *args, **kwargs)

    model, completed = _run(folder, config, weights, load_weights)
    model.model_path = folder
    answer_with_logits(model)
    return model, completed


def sanitized(folder: Path, config: Mapping[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """Returns what a model of mlx-vlm would load of a checkpoint's tensors, under its own names; nothing is evaluated.

    Args:
        folder: As for `build_model`.
        config: As for `build_model`.
        weights: As for `build_model`.

    Raises:
        UnsupportedModelError: as from `build_model`.
        Exception: as from `build_model`.
    """
    made: dict[str, Any] = {}

    def keep(model: nn.Module, config: dict[str, Any], weights: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        made.update(weights)
        return model

    _run(folder, config, weights, keep)
    return made


def _run(
    folder: Path, config: Mapping[str, Any], weights: dict[str, Any], load_weights: Callable[..., Any]
) -> tuple[nn.Module, dict[str, Any]]:
    require(f"{folder}: model type {str(config.get('model_type'))[:80]!r}")
    from mlx_vlm import utils

    completed = checked_config(folder, config)
    ours = {
        "load_config": lambda *args, **kwargs: completed,
        "glob": SimpleNamespace(glob=lambda pattern: [pattern]),
        "_load_safetensors": lambda path: weights,
        "load_model_weights": load_weights,
    }
    return with_names(utils.load_model, ours)(_NOWHERE, lazy=True), completed


def checked_config(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a config that names one of the known families and nothing outside of its folder.

    Raises:
        UnsupportedModelError: it does not, or is of a form that is not run here.
    """
    completed = copy.deepcopy(dict(config))
    completed.pop("model_file", None)  # code of its own: never run by mlx-vlm
    from mlx_vlm import utils

    kind = utils.get_model_type(completed)
    if kind not in {*VLM_FAMILIES, *WITH_PICTURES} or kind != vlm_type(str(config.get("model_type"))):
        raise UnsupportedModelError(f"{folder}: config.json describes {str(kind)[:80]!r} to mlx-vlm: fix the config.")
    text = completed.get("text_config")
    if isinstance(text, dict) and text.get("ple_storage"):
        raise UnsupportedModelError(
            f"{folder}: its n-gram tables lie outside of its shards (ple_storage), which is not read here. Take the "
            "checkpoint that holds them."
        )
    return completed
