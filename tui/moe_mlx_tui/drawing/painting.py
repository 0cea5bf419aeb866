"""From a grid of states to characters and states per screen cell. Array operations only; knows no screen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_mlx_tui.drawing.cells import ABSENT, EVICTED, STATES
from moe_mlx_tui.drawing.ramp import sign
from moe_mlx_tui.engine.snapshot import ModelFacts

TILES, HALF, BRAILLE, ASCII = "tiles", "half", "braille", "ascii"
MODES = (TILES, HALF, BRAILLE, ASCII)
#: Experts across and layers down that one screen cell stands for; a tile is two screen cells.
EXPERTS_A_CELL = {TILES: 0.5, HALF: 1, BRAILLE: 2, ASCII: 1}
LAYERS_A_CELL = {TILES: 1, HALF: 2, BRAILLE: 4, ASCII: 1}
#: Beyond a row's end, where layers differ in size.
BLANK = STATES

Grid = NDArray[np.uint8]
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint16)
_SIGNS = np.array([ord(sign(state)) for state in range(STATES)] + [32], dtype=np.uint32)
_PLAIN = np.array([ord(sign(state, plain=True)) for state in range(STATES)] + [32], dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class Painting:
    """Characters and states of each screen cell, `[rows, columns]`. In `HALF` a state is `upper * 16 + lower`."""

    characters: NDArray[np.uint32]
    states: Grid


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


def paint(grid: Grid, mode: str) -> Painting:
    """Draws the grid."""
    if mode == TILES:
        characters = np.full((grid.shape[0], grid.shape[1] * 2), 32, dtype=np.uint32)
        characters[:, ::2] = _SIGNS[grid]
        return Painting(characters, np.repeat(grid, 2, axis=1))
    if mode == HALF:
        return _half_blocks(grid)
    if mode == BRAILLE:
        return _braille(grid)
    return Painting(_PLAIN[grid], grid)


def _blocks(grid: Grid, down: int, across: int) -> Grid:
    """Returns `[rows, down, columns, across]`, filled up with `BLANK`."""
    rows, columns = -(-grid.shape[0] // down), -(-grid.shape[1] // across)
    if grid.shape != (rows * down, columns * across):
        whole = np.full((rows * down, columns * across), BLANK, dtype=np.uint8)
        whole[: grid.shape[0], : grid.shape[1]] = grid
        grid = whole
    return grid.reshape(rows, down, columns, across)


def _resident(grid: Grid) -> NDArray[np.bool_]:
    return (grid != ABSENT) & (grid != EVICTED) & (grid != BLANK)


def _braille(grid: Grid) -> Painting:
    blocks = _blocks(grid, 4, 2)
    dots = (_resident(blocks) * _BITS[None, :, None, :]).sum(axis=(1, 3), dtype=np.uint32)
    states = np.where(blocks == BLANK, 0, blocks).max(axis=(1, 3)).astype(np.uint8)
    return Painting(0x2800 + dots, states)


def _half_blocks(grid: Grid) -> Painting:
    blocks = _blocks(grid, 2, 1)[..., 0]
    upper, lower = blocks[:, 0], blocks[:, 1]
    on_top, below = _resident(upper), _resident(lower)
    characters = np.full(upper.shape, ord("·"), dtype=np.uint32)
    characters[on_top] = ord("▀")
    characters[~on_top & below] = ord("▄")
    characters[(upper == EVICTED) | (lower == EVICTED)] = ord("✕")
    characters[on_top & (lower == EVICTED)] = ord("▀")
    characters[below & (upper == EVICTED)] = ord("▄")
    characters[(upper == BLANK) & (lower == BLANK)] = 32
    front = np.where(on_top | ~below, upper, lower)
    behind = np.where(on_top & below, lower, ABSENT)
    front = np.where(front == BLANK, ABSENT, front)
    return Painting(characters, (front * 16 + behind).astype(np.uint8))


def fitting_mode(layers: int, experts: int, columns: int, rows: int) -> str:
    """Returns the largest drawing that shows everything; Braille if none does."""
    for mode in (TILES, HALF, BRAILLE):
        if experts / EXPERTS_A_CELL[mode] <= columns and layers / LAYERS_A_CELL[mode] <= rows:
            return mode
    return BRAILLE
