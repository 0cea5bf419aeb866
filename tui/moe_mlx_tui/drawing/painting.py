"""From a grid of cells to characters and cells per place of the screen. Array operations only; knows no screen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_mlx_tui.drawing.cells import ABSENT, COARSE, ELSEWHERE, EVICTED, STATE_BITS, STATES
from moe_mlx_tui.drawing.drawings import BRAILLE, CELLS, HALF, PAIR, TILES, Drawing
from moe_mlx_tui.drawing.ramp import sign
from moe_mlx_tui.engine.snapshot import ModelFacts

#: Beyond a row's end, where layers differ in size.
BLANK = STATES

Grid = NDArray[np.uint8]
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint16)
_KNOWN = [flag | state for flag in (0, COARSE) for state in range(STATES)]
#: Which cell wins a place that several share: by state, and whole before coarse.
_RANK = np.array([(cell & STATE_BITS) * 2 + (not cell & COARSE) for cell in range(2 * COARSE)], dtype=np.uint8)
_BY_RANK = np.zeros(int(_RANK.max()) + 1, dtype=np.uint8)
_BY_RANK[_RANK[_KNOWN]] = _KNOWN


def _table(plain: bool) -> NDArray[np.uint32]:
    signs = np.full(2 * COARSE, 32, dtype=np.uint32)
    signs[_KNOWN] = [ord(sign(cell, plain)) for cell in _KNOWN]
    return signs


_SIGNS, _PLAIN = _table(False), _table(True)
#: Where an expert has one place, nothing stands for an absent one: half as many runs of colour, and less to see.
_SPARSE = _SIGNS.copy()
_SPARSE[ABSENT] = 32


@dataclass(frozen=True, slots=True)
class Painting:
    """Characters and cells of each place, `[rows, columns]`. In `HALF` a cell is `upper * PAIR + lower`."""

    characters: NDArray[np.uint32]
    cells: NDArray[np.uint16]


def grid_of(cells: bytes, facts: ModelFacts) -> Grid:
    """Returns `[layers, most experts]`; short rows end in `BLANK`."""
    flat = np.frombuffer(cells, dtype=np.uint8)
    width = max(facts.experts)
    if min(facts.experts) == width:
        return flat.reshape(facts.layers, width)
    grid = np.full((facts.layers, width), BLANK, dtype=np.uint8)
    for layer, count in enumerate(facts.experts):
        grid[layer, :count] = flat[facts.offsets[layer] : facts.offsets[layer + 1]]
    return grid


def paint(grid: Grid, drawing: Drawing) -> Painting:
    """Draws a grid of layers that stand together."""
    if drawing.kind == TILES:
        cells = np.repeat(np.repeat(grid, drawing.high, axis=0), drawing.wide, axis=1)
        characters = _SIGNS[cells]
        characters[:, drawing.wide - 1 :: drawing.wide] = 32  # a gap between two experts
        return Painting(characters, cells.astype(np.uint16))
    if drawing.kind == HALF:
        return _half_blocks(grid)
    if drawing.kind == BRAILLE:
        return _braille(grid)
    return Painting((_SPARSE if drawing.kind == CELLS else _PLAIN)[grid], grid.astype(np.uint16))


def blocks(grid: Grid, down: int, across: int) -> Grid:
    """Returns `[rows, down, columns, across]`, filled up with `BLANK`."""
    rows, columns = -(-grid.shape[0] // down), -(-grid.shape[1] // across)
    if grid.shape != (rows * down, columns * across):
        whole = np.full((rows * down, columns * across), BLANK, dtype=np.uint8)
        whole[: grid.shape[0], : grid.shape[1]] = grid
        grid = whole
    return grid.reshape(rows, down, columns, across)


def resident(grid: Grid) -> NDArray[np.bool_]:
    """Returns where an expert is in memory."""
    states = grid & STATE_BITS
    return ~np.isin(states, (*ELSEWHERE, BLANK))


def _braille(grid: Grid) -> Painting:
    shared = blocks(grid, 4, 2)
    dots = (resident(shared) * _BITS[None, :, None, :]).sum(axis=(1, 3), dtype=np.uint32)
    winner = np.where(shared == BLANK, 0, _RANK[shared]).max(axis=(1, 3))
    return Painting(0x2800 + dots, _BY_RANK[winner].astype(np.uint16))


def _half_blocks(grid: Grid) -> Painting:
    pairs = blocks(grid, 2, 1)[..., 0]
    upper, lower = pairs[:, 0], pairs[:, 1]
    on_top, below = resident(upper), resident(lower)
    characters = np.full(upper.shape, ord("·"), dtype=np.uint32)
    characters[on_top] = ord("▀")
    characters[~on_top & below] = ord("▄")
    characters[(upper == EVICTED) | (lower == EVICTED)] = ord("✕")
    characters[on_top & (lower == EVICTED)] = ord("▀")
    characters[below & (upper == EVICTED)] = ord("▄")
    characters[(upper == BLANK) & (lower == BLANK)] = 32
    front = np.where(on_top | ~below, upper, lower)
    behind = np.where(on_top & below, lower, ABSENT)
    front = np.where(characters == ord("✕"), EVICTED, np.where(front == BLANK, ABSENT, front))
    return Painting(characters, front.astype(np.uint16) * PAIR + behind)
