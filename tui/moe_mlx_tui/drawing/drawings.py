"""The ways to draw the map: how many experts and layers a place of the screen stands for, and which way fits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

#: A tile is several columns wide; a cell is one place an expert; the others share a place.
TILES, CELLS, HALF, BRAILLE, ASCII = "tiles", "cells", "half", "braille", "ascii"
MODES = (TILES, CELLS, HALF, BRAILLE, ASCII)
#: Experts across and layers down that share one place of the screen.
_SHARED = {TILES: (1, 1), CELLS: (1, 1), HALF: (1, 2), BRAILLE: (2, 4), ASCII: (1, 1)}
#: What a place of half-blocks holds: the upper cell times this, and the lower one.
PAIR = 32
#: Columns of the largest tile.
WIDEST = 8


@dataclass(frozen=True, slots=True)
class Drawing:
    """One way to draw.

    Attributes:
        kind: One of `MODES`.
        wide: Columns of a tile.
        high: Rows of a tile.
    """

    kind: str
    wide: int = 1
    high: int = 1

    @property
    def across(self) -> int:
        """Experts that share a place."""
        return _SHARED[self.kind][0]

    @property
    def down(self) -> int:
        """Layers that share a place."""
        return _SHARED[self.kind][1]

    def columns(self, experts: int) -> int:
        """Returns the columns of so many experts."""
        return -(-experts * self.wide // self.across)

    def rows(self, layers: int) -> int:
        """Returns the rows of so many layers that stand together."""
        return -(-layers * self.high // self.down)

    def column_of(self, expert: int) -> int:
        """Returns the first column of an expert."""
        return expert * self.wide // self.across

    def expert_at(self, column: int) -> int:
        """Returns the first expert of a column."""
        return column * self.across // self.wide


SMALLEST_TILE = Drawing(TILES, 2, 1)


@dataclass(frozen=True)
class Bands:
    """Layers as they stand on the screen: a band for each run of one rank, so that no place belongs to two.

    Attributes:
        drawing: How they are drawn.
        ranks: The machine that holds each layer.
    """

    drawing: Drawing
    ranks: tuple[int, ...]

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """First layer and end of each band."""
        return tuple(_spans(self.ranks))

    @cached_property
    def tops(self) -> tuple[int, ...]:
        """The first layer of each row."""
        down, high = self.drawing.down, self.drawing.high
        return tuple(layer for first, end in self.spans for layer in range(first, end, down) for _ in range(high))

    def row_of(self, layer: int) -> int:
        """Returns the first row of a layer."""
        top = self.tops[bisect_right(self.tops, layer) - 1]
        return self.tops.index(top)


def _spans(ranks: Sequence[int]) -> Iterator[tuple[int, int]]:
    first = 0
    for _, run in groupby(ranks):
        end = first + len(list(run))
        yield first, end
        first = end


def rows_of(ranks: Sequence[int], drawing: Drawing) -> int:
    """Returns the rows of all layers, each rank's in a band of its own."""
    return sum(drawing.rows(end - first) for first, end in _spans(ranks))


def largest_tile(layers: int, experts: int, columns: int, rows: int) -> Drawing | None:
    """Returns the largest tile that fits and is about as wide as it is high, or None."""
    high = max(1, min(WIDEST // 2, rows // max(1, layers)))
    wide = min(WIDEST, 2 * high + 1, columns // max(1, experts))
    if wide < SMALLEST_TILE.wide or layers > rows:
        return None
    return Drawing(TILES, wide, max(1, min(high, wide // 2)))


def fitting(ranks: Sequence[int], experts: int, columns: int, rows: int, *, plain: bool = False) -> Drawing:
    """Returns the largest drawing that shows everything: an expert a place wherever that fits; Braille if none does.

    Args:
        ranks: The rank of each layer.
        experts: The most experts of a layer.
        columns: Columns there are.
        rows: Rows there are.
        plain: Whether to keep to ASCII.
    """
    if plain:
        return Drawing(ASCII)
    if (tile := largest_tile(len(ranks), experts, columns, rows)) is not None:
        return tile
    for drawing in (Drawing(CELLS), Drawing(HALF)):
        if drawing.columns(experts) <= columns and rows_of(ranks, drawing) <= rows:
            return drawing
    return Drawing(BRAILLE)


def named(kind: str, layers: int, experts: int, columns: int, rows: int) -> Drawing:
    """Returns the drawing of a kind that was asked for; tiles as large as they fit."""
    if kind == TILES:
        return largest_tile(layers, experts, columns, rows) or SMALLEST_TILE
    return Drawing(kind)
