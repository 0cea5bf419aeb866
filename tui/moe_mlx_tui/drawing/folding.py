"""The whole map in very few rows: layers side by side, the experts of each folded into columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_mlx_tui.drawing.cells import ARRIVED, HELD, LATE, NEWEST, OLDEST, STATE_BITS
from moe_mlx_tui.drawing.drawings import ASCII, BRAILLE, CELLS, HALF, Drawing
from moe_mlx_tui.drawing.painting import BLANK, Grid, Painting, paint, resident

#: By the share of a group that is in memory, from none to all.
_SHADES, _PLAIN_SHADES = "·░▒▓█", ".:o0#"


def fold(grid: Grid, columns: int, rows: int, *, plain: bool = False) -> tuple[Painting, str]:
    """Returns the painting and its kind: an expert a cell, a half-block or a dot, else groups of experts shaded.

    Args:
        grid: Cells, `[layers, experts]`.
        columns: Columns there are; never more are drawn.
        rows: Rows to fold into.
        plain: Whether to keep to ASCII.
    """
    layers, experts = grid.shape
    for kind in (ASCII,) if plain else (CELLS, HALF, BRAILLE):
        drawing = Drawing(kind)
        each = -(-experts // (rows * drawing.down * drawing.across))  # columns of a layer
        if layers * (each + 1) - 1 <= columns:
            return paint(_side_by_side(grid, each, rows, drawing), drawing), kind
    return _shaded(grid, columns, rows, plain), ASCII if plain else CELLS


def _side_by_side(grid: Grid, each: int, rows: int, drawing: Drawing) -> Grid:
    layers, experts = grid.shape
    high, wide = rows * drawing.down, each * drawing.across
    whole = np.full((layers, wide * high), BLANK, dtype=np.uint8)
    whole[:, :experts] = grid
    folded = np.full((high, layers, wide + drawing.across), BLANK, dtype=np.uint8)
    folded[:, :, :wide] = whole.reshape(layers, wide, high).transpose(2, 0, 1)
    return folded.reshape(high, -1)[:, : -drawing.across]


def _shaded(grid: Grid, columns: int, rows: int, plain: bool) -> Painting:
    """Returns groups: the glyph says how many of them are in memory, the state how lately they were used or read."""
    layers, experts = grid.shape
    together = -(-layers // max(1, columns))  # layers that share a column
    count = -(-layers // together)
    each = max(1, columns // count)
    groups = min(each * rows, experts * together)
    each = max(1, groups // rows)
    groups = each * rows
    whole = np.full((count * together, experts), BLANK, dtype=np.uint8)
    whole[:layers] = grid
    flat = whole.reshape(count, together, experts).transpose(0, 2, 1).reshape(count, -1)
    edges = np.arange(groups) * flat.shape[1] // groups
    held, states = resident(flat), flat & STATE_BITS

    def sums(values: NDArray[Any]) -> NDArray[Any]:
        return np.add.reduceat(values, edges, axis=1, dtype=np.int64)

    there, known = sums(held), np.maximum(1, sums(flat != BLANK))
    ages = sums(np.where(held, np.clip(states, OLDEST, NEWEST), 0)) // np.maximum(1, there)
    cells = np.where(there > 0, np.maximum(ages, OLDEST), 0)
    cells = np.where(sums(held & (states == HELD)) > 0, HELD, cells)
    for state in (ARRIVED, LATE):
        cells = np.where(sums(states == state) > 0, state, cells)
    shades = np.array([ord(shade) for shade in (_PLAIN_SHADES if plain else _SHADES)], dtype=np.uint32)
    characters = shades[-(-there * (len(shades) - 1) // known)]

    def laid_out(values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(count, each, rows).transpose(2, 0, 1).reshape(rows, count * each)

    return Painting(laid_out(characters), laid_out(cells).astype(np.uint16))
