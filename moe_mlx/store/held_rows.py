"""A store of which this machine has some row blocks of every expert: the rest of each file is a hole."""

from __future__ import annotations

import json
import os
from pathlib import Path

from moe_mlx.errors import StoreCorruptError
from moe_mlx.store.json_files import read_json

#: Says which blocks are here; a store that is whole has none.
NAME = "rows.json"


def written(blocks: range, of: int) -> str:
    """Returns what the file says of some row blocks of so many."""
    return json.dumps({"first": blocks.start, "last": blocks.stop - 1, "of": of}) + "\n"


def read_held(root: Path, of: int) -> range | None:
    """Returns the row blocks that a store has here; None where it has all.

    Args:
        root: The store.
        of: The row blocks that its manifest has.

    Raises:
        StoreCorruptError: a file that says none of that store's.
    """
    path = root / NAME
    if not os.path.lexists(path):
        return None
    found = read_json(path)
    first, last = (found.get("first"), found.get("last")) if isinstance(found, dict) else (None, None)
    if type(first) is not int or type(last) is not int or not 0 <= first <= last < of or found.get("of") != of:
        raise StoreCorruptError(f"{path}: no row blocks of a store that has {of}. Take the share of it again.")
    return range(first, last + 1)


def in_words(blocks: range) -> str:
    """Returns row blocks as users are told of them."""
    return f"row blocks {blocks.start} to {blocks.stop - 1} of every expert"
