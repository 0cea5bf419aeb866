"""What a model takes of its checkpoint: its family's own `sanitize`, run over stand-ins for the tensors.

A library drops what it does not run (layers of multi-token prediction, mlx-lm the vision towers) and joins, splits or
unpacks other tensors. No list of names follows that, the family's code does. A stand-in has a name, a shape and a
dtype, and one element of memory.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moe_mlx.errors import StoreCorruptError, UnsupportedModelError
from moe_mlx.store.families import MLX_VLM, library_of
from moe_mlx.store.header import Entry
from moe_mlx.store.locate import Located
from moe_mlx.store.spec import tensor_nbytes


def taken(config: Mapping[str, Any], tensors: Iterable[Entry], where: Path) -> dict[str, Located]:
    """Returns the tensors that a model has in memory, under its own names, before quantisation is looked at.

    Args:
        config: Its config.json; code of its own is not run, and every tensor then counts.
        tensors: Of its shards.
        where: The checkpoint, named in errors; what is returned lies nowhere else.

    Raises:
        UnsupportedModelError: mlx-lm has no such model, or no such dtype.
        StoreCorruptError: the config lacks what the model needs, or its `sanitize` stumbles over the tensors.
    """
    import mlx.core as mx
    from mlx_lm import utils

    from moe_mlx.expert_cache.slots import DTYPES

    given: dict[str, Any] = {}
    for entry in tensors:
        if entry.dtype not in DTYPES:
            raise UnsupportedModelError(f"{where}: {entry.name[:80]!r} is {entry.dtype}, which MLX does not load.")
        # Ones: signs of a Hadamard rotation are looked at, and none of them may be 0.
        given[entry.name] = (entry.dtype, entry.shape)
    try:
        stand_ins = {name: mx.broadcast_to(mx.array(1, DTYPES[dtype]), shape) for name, (dtype, shape) in given.items()}
        made = stand_ins if config.get("model_file") else _sanitized(utils, dict(config), stand_ins, where)
    except UnsupportedModelError:
        raise
    except Exception as error:  # whatever a model file of mlx-lm makes of a config that it never saw
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StoreCorruptError(
            f"{where}: {library_of(config)} cannot build this model from its config and the names of its tensors: "
            f"{text[:200]}. Fetch it again."
        ) from error
    spelled = {str(dtype): name for name, dtype in reversed(DTYPES.items())}
    found = {}
    for name, array in made.items():
        dtype, shape = spelled[str(array.dtype)], tuple(array.shape)
        if stand_ins.get(name) is array:
            dtype = given[name][0]
        found[name] = Located(Entry(name, dtype, shape, 0, tensor_nbytes(dtype, shape)), where, 0)
    return found


def _sanitized(utils: Any, config: dict[str, Any], weights: dict[str, Any], where: Path) -> dict[str, Any]:
    if library_of(config) == MLX_VLM:
        from moe_mlx.vlm.building import sanitized

        return sanitized(where, config, dict(weights))
    config = copy.deepcopy(config)
    nested = config.get("text_config")
    if "quantization_config" not in config and isinstance(nested, dict) and "quantization_config" in nested:
        config["quantization_config"] = nested["quantization_config"]  # as mlx-lm's loading does
    model_class, args_class = utils._get_classes(config)
    model = model_class(args_class.from_dict(config))
    return dict(model.sanitize(dict(weights))) if hasattr(model, "sanitize") else weights
