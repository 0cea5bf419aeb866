"""JSON files of a stranger's model: bounded, regular, and its config within reason."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_mlx.errors import StoreCorruptError, StoreMissingError
from moe_mlx.store.files import open_regular

#: Config and index files larger than this are damage or an attack on memory.
MAX_JSON_NBYTES = 64_000_000
#: A model of a million layers is built layer by layer before any weight contradicts it. The deepest known has 126.
MOST_LAYERS = 1024
_LAYERS = re.compile(r"(?:n|num)_(?:\w+_)?(?:layers?|blocks)")
#: A kind for each layer: some models have as many layers as such a list is long.
_KINDS = re.compile(r"layer_types|layers_block_type|hybrid_override_pattern")


def read_json(path: Path) -> Any:
    """Reads a JSON file of a model.

    Raises:
        StoreMissingError: No such file.
        StoreCorruptError: Unreadable, too large or no JSON.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_JSON_NBYTES:
                raise StoreCorruptError(
                    f"{path}: larger than {MAX_JSON_NBYTES} bytes; this is no description of a model."
                )
            return json.loads(file.read(MAX_JSON_NBYTES))
    except FileNotFoundError:
        raise StoreMissingError(f"{path}: no such file. Name the folder of a store or of an MLX checkpoint.") from None
    except (ValueError, RecursionError) as error:
        raise StoreCorruptError(f"{path}: not JSON ({error}). Fetch or convert the model again.") from None
    except OSError as error:
        raise StoreCorruptError(f"{path}: cannot be read ({error.strerror}).") from None


def read_config(root: Path) -> Mapping[str, Any]:
    """Reads a model's config.json, which must be an object and count no absurd number of layers.

    Raises:
        StoreMissingError: No such file.
        StoreCorruptError: It is no description of a model.
    """
    path = root / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise StoreCorruptError(f"{path}: no JSON object. Fetch or convert the model again.")
    for scope in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key, value in scope.items():
            count = value
            if _KINDS.fullmatch(key) and isinstance(value, list | str):
                count = len(value)
            elif not _LAYERS.fullmatch(key):
                continue
            if isinstance(count, int | float) and not count <= MOST_LAYERS:
                raise StoreCorruptError(
                    f"{path}: {key} counts {str(count)[:80]} layers, and no model has more than {MOST_LAYERS}. "
                    "Fetch it again."
                )
    return config
