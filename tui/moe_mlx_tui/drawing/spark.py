"""Bars of block characters: sparklines and meters as plain strings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_PLAIN = " .:-=+*%#"


def columns(values: Sequence[float], width: int, ceiling: float, rows: int = 1, plain: bool = False) -> list[str]:
    """Returns `rows` lines of `width` characters, the latest value at the right end.

    Args:
        values: Oldest first.
        width: Columns.
        ceiling: The value of a full column.
        rows: Lines, top first.
        plain: Whether to keep to ASCII.
    """
    signs = _PLAIN if plain else _EIGHTHS
    shown = list(values)[-width:] if width > 0 else []
    steps = rows * 8
    levels = [0 if v <= 0 or ceiling <= 0 else max(1, min(steps, round(v / ceiling * steps))) for v in shown]
    lines = []
    for row in range(rows):
        floor = (rows - 1 - row) * 8
        lines.append("".join(signs[max(0, min(8, level - floor))] for level in levels).rjust(width))
    return lines


def spread(values: Sequence[float], width: int) -> list[float]:
    """Returns `values` in `width` columns: a group of columns a value, or the worst of several in one."""
    count = len(values)
    if not count or width <= 0:
        return []
    if count <= width:
        each = min(8, width // count)
        gap = 1 if each >= 3 else 0
        return [level for value in values for level in [value] * (each - gap) + [0.0] * gap]
    edges = [place * count // width for place in range(width + 1)]
    return [min(values[a:b]) for a, b in pairwise(edges)]


def meter(share: float, width: int, plain: bool = False) -> tuple[str, str]:
    """Returns the filled and the empty part of a bar."""
    full = round(max(0.0, min(1.0, share)) * width)
    if share > 0 and full == 0:
        full = 1
    return ("#" if plain else "━") * full, ("-" if plain else "─") * (width - full)
