"""Who gets which part of the screen: the map takes the columns that the conversation can spare, then the rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moe_mlx_tui.drawing.drawings import ASCII, BRAILLE, Drawing, fitting, named, rows_of
from moe_mlx_tui.engine.snapshot import ModelFacts

#: Columns that a conversation keeps beside the map, and from where on it has enough.
TALK_LEAST, TALK_ENOUGH = 52, 64
#: Below this many columns the map and the conversation share one place.
BESIDE_FROM = 110
#: Columns of the map's panel that are not the map's: borders, padding (none in the theatre); and the gap beside a
#: conversation.
FRAME, GAP = 4, 1
#: Inner columns from which the legend stands in one line.
LEGEND_LINE = 124
BORDER = 2
#: Gauges, and the most lines of each.
GAUGES, MOST_LINES = 5, 6
#: Rows of each panel of figures: the least of the gauges, the memory, the least and the most of the layers.
_LOW, _MEMORY, _LAYERS, MOST_LAYERS = GAUGES + BORDER, 4 + BORDER, 3 + BORDER, 12
#: Columns from which the figures stand side by side, and that they take right of a map.
BAND_FROM, FIGURES_BESIDE = 104, 48
BELOW, BAND, BESIDE = "below", "band", "beside"
AUTO = "auto"
#: Rows that conversation and prompt keep under a map that fills the screen.
TALK_ROWS = 7


def gutter(facts: ModelFacts) -> int:
    """Returns the columns of the layers' numbers, and of the ranks' where there are several."""
    digits = len(str(facts.layers - 1)) + 1
    return digits + len(str(max(facts.layer_ranks))) + 1 if len(set(facts.layer_ranks)) > 1 else digits


def side_columns(columns: int, rows: int, facts: ModelFacts | None, *, plain: bool = False) -> int:
    """Returns how wide the map's panel is beside a conversation on a screen of `columns` and `rows`."""
    most = columns - max(TALK_LEAST, min(TALK_ENOUGH, columns * 2 // 5))
    least = min(most, 58 if columns < 132 else 72)
    if facts is None:
        return least
    beside = GAP + FRAME + gutter(facts)
    drawing = fitting(facts.layer_ranks, max(facts.experts), most - beside, map_rows(rows - 1, most - GAP), plain=plain)
    return max(least, min(most, drawing.columns(max(facts.experts)) + beside))


def chrome(columns: int) -> int:
    """Returns the rows of a map's panel beside the map: border, legend, the cursor's line."""
    return BORDER + 1 + (1 if columns - FRAME >= LEGEND_LINE else 2)


def map_rows(rows: int, columns: int, *, alone: bool = False) -> int:
    """Returns the rows that the map may take; unless it stands `alone`, the gauges keep theirs."""
    return max(2, rows - chrome(columns) - (_LOW if rows >= 18 and not alone else 0))


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What stands where in the panel.

    Attributes:
        drawing: How the map is drawn.
        rows: Rows that the map may take.
        figures: Whether they stand below the map, below it side by side, or right of it.
        lines: Lines of each gauge; 0 leaves the gauges out.
        memory: Whether there is room for the memory.
        layers: Rows of the layers' hit rates; 0 leaves them out.
        columns: Columns of the map's panel; 0 for all.
        height: Rows in all.
    """

    drawing: Drawing
    rows: int
    figures: str
    lines: int
    memory: bool
    layers: int
    columns: int
    height: int


def arranged(
    columns: int, rows: int, facts: ModelFacts | None, *, kind: str = AUTO, theatre: bool = False, plain: bool = False
) -> Arrangement:
    """Returns what stands where in a panel of `columns` and `rows`.

    Args:
        columns: Of the panel.
        rows: Of the panel.
        facts: The model; None before there is one.
        kind: The drawing that was asked for, or `AUTO` for the largest that shows everything.
        theatre: Whether the map comes before all figures.
        plain: Whether to keep to ASCII.
    """
    allowed, frame = map_rows(rows, columns, alone=theatre), 0 if theatre else FRAME
    if facts is None:
        return _stack(Drawing(ASCII if plain else BRAILLE), allowed, rows - chrome(columns) - min(4, allowed), rows)
    own = columns - frame - gutter(facts)
    drawing = choose(kind, facts, own, allowed, plain=plain)
    need = drawing.columns(max(facts.experts)) + gutter(facts) + frame
    taken = min(allowed, rows_of(facts.layer_ranks, drawing))
    if theatre and columns - need >= FIGURES_BESIDE:
        allowed = min(allowed, rows - chrome(need))
        height = max(min(taken, allowed) + chrome(need), min(rows, _LOW + _MEMORY + _LAYERS))
        beside = _stack(drawing, allowed, height, height)
        return replace(beside, figures=BESIDE, columns=need)
    left = rows - chrome(columns) - taken
    if columns < BAND_FROM:
        return _stack(drawing, allowed, left, rows)
    band = min(left, _LOW + GAUGES if theatre else MOST_LINES * GAUGES + BORDER)
    lines = max(0, (band - BORDER) // GAUGES)
    band = band if lines else 0
    return Arrangement(drawing, allowed, BAND, lines, lines > 0, band, 0, chrome(columns) + taken + band)


def choose(kind: str, facts: ModelFacts, columns: int, rows: int, *, plain: bool = False) -> Drawing:
    """Returns the drawing of a kind, or the largest that shows everything in the map's own `columns` and `rows`."""
    if kind == AUTO or plain:
        return fitting(facts.layer_ranks, max(facts.experts), columns, rows, plain=plain)
    return named(kind, facts.layers, max(facts.experts), columns, rows)


def _stack(drawing: Drawing, allowed: int, left: int, height: int) -> Arrangement:
    """Gives the figures what is left, one below the other; on a low screen the last go first."""
    lines = 0
    if left >= _LOW:
        lines = max(1, min(MOST_LINES, (left - BORDER - _MEMORY - _LAYERS) // GAUGES))
        left -= lines * GAUGES + BORDER
    memory = left >= _MEMORY
    left -= _MEMORY if memory else 0
    layers = min(left, MOST_LAYERS) if left >= _LAYERS else 0
    return Arrangement(drawing, allowed, BELOW, lines, memory, layers, 0, height)
