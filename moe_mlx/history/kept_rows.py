"""Small files of rows in the user's own folder: read when they are sound, else as if they were not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from moe_mlx.store.files import open_regular
from moe_mlx.system.whole_files import write_whole

VERSION = 1
_LARGEST_FILE = 1_000_000
_KINDS: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "float": (int, float), "tuple[float, ...]": list}
T = TypeVar("T")


def read_rows(path: Callable[[], Path], name: str, kind: type[T]) -> list[T]:
    """Returns the rows of a file; nothing where it is missing, foreign or damaged.

    Args:
        path: Where it is; may raise RuntimeError where there is no home folder.
        name: What it calls its rows; "moe-mlx NAME" is its format.
        kind: The dataclass of a row.
    """
    try:
        with os.fdopen(open_regular(path()), "rb") as file:
            kept = json.loads(file.read(_LARGEST_FILE))
        if (kept["format"], kept["version"]) != (f"moe-mlx {name}", VERSION):
            return []
        return [row_of(kind, row) for row in kept[name]]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, RecursionError):
        return []


def write_rows(path: Path, name: str, rows: Sequence[Any]) -> None:
    """Writes a file anew, for its user only.

    Raises:
        OSError: from the operating system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"format": f"moe-mlx {name}", "version": VERSION, name: [asdict(row) for row in rows]}
    write_whole(path, json.dumps(told, indent=1) + "\n", private=True)


def row_of(kind: type[T], row: dict[str, Any]) -> T:
    """Returns a row.

    Raises:
        TypeError, ValueError, KeyError: it is none of that kind.
    """
    values = dict(row)
    for field in fields(kind):  # type: ignore[arg-type]
        if field.default is not MISSING:  # what files of before do not say
            values.setdefault(field.name, field.default)
        value = values[field.name]
        if not isinstance(value, _KINDS[str(field.type)]) or isinstance(value, bool):
            raise TypeError(field.name)
        if isinstance(value, list):
            values[field.name] = tuple(float(number) for number in value)
    return kind(**values)
