"""From a row of a painting to runs of text in one style each, as the screen takes them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.segment import Segment
from rich.style import Style

from moe_mlx_tui.drawing.drawings import HALF, PAIR
from moe_mlx_tui.drawing.ramp import pair_style, state_style

_CURSOR = Style(reverse=True)
_BLANK = 32


def style_of(cell: int, kind: str, dark: bool, marked: bool, ground: Color | None = None) -> Style:
    """Returns the style of a place of a painting; `marked` is for screens without colour."""
    if kind == HALF:
        return pair_style(cell // PAIR, cell % PAIR, dark, ground)
    return state_style(cell, dark, marked, ground)


def runs(
    characters: NDArray[np.uint32],
    cells: NDArray[np.uint16],
    kind: str,
    *,
    dark: bool,
    marked: bool,
    ground: Color | None,
    cursor: tuple[int, int] | None = None,
) -> list[Segment]:
    """Returns one row's segments; those within `cursor`, first place and end, are reversed."""
    count = len(cells)
    if kind != HALF:  # a blank shows no colour: it joins the run before it
        inked = np.maximum.accumulate(np.where(characters != _BLANK, np.arange(count), 0))
        cells = cells[inked]
    text = characters.astype("<u4").tobytes().decode("utf-32-le")
    edges = {0, count, *(np.flatnonzero(cells[1:] != cells[:-1]) + 1).tolist()}
    first, last = cursor or (count, count)
    edges |= {edge for edge in (first, last) if 0 <= edge <= count}
    starts = sorted(edges)
    values = cells.tolist()
    out = []
    for start, end in pairwise(starts):
        style = style_of(values[start], kind, dark, marked, ground)
        out.append(Segment(text[start:end], style + _CURSOR if first <= start < last else style))
    return out
