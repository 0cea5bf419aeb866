"""Sizes in bytes, as people write and read them: powers of ten; GB = 10^9 bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from moe_mlx.errors import UsageError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def show_bytes(count: float) -> str:
    """Returns bytes for people: "7.9 MB", "4.0 GB" (powers of ten)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{int(count)} B"


def size_text(nbytes: int) -> str:
    """Returns bytes to the third digit, in GB, or MB below a tenth of one: for sizes that are compared or added up."""
    return sizes_alike([nbytes])[0]


def sizes_alike(sizes: Sequence[int]) -> list[str]:
    """Returns the sizes of one column, all in the unit of the largest."""
    unit, scale = ("GB", 1e9) if max(sizes, default=0) >= 1e8 else ("MB", 1e6)
    return [f"{nbytes / scale:.3f} {unit}" for nbytes in sizes]


def parse_size(text: str) -> int:
    """Returns the bytes in "4GB", "512 MiB" or "1000000".

    Raises:
        UsageError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not match or match[2].lower() not in _UNITS:
        raise UsageError(f"{text!r} is no size: write bytes with a unit, such as 4GB or 512MB")
    return int(float(match[1]) * _UNITS[match[2].lower()])
