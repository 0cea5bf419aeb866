"""The residency map: layers down, experts across, positions fixed; only rows that changed are drawn again."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from moe_mlx_tui.drawing.arrangement import AUTO, gutter
from moe_mlx_tui.drawing.drawings import BRAILLE, MODES, Bands, Drawing
from moe_mlx_tui.drawing.painting import Grid, Painting, grid_of, paint
from moe_mlx_tui.drawing.runs import runs
from moe_mlx_tui.engine.snapshot import ModelFacts, Snapshot

#: Places from which a map costs more than a frame should.
MANY = 2500


class ResidencyMap(Widget, can_focus=True):
    """Drawn as it is told; `mode` is the drawing that was asked for, or `AUTO`."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"residency-map--layer"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(0,-1)", "expert before", show=False),
        Binding("right,l", "move(0,1)", "next expert", show=False),
        Binding("up,k", "move(-1,0)", "layer above", show=False),
        Binding("down,j", "move(1,0)", "layer below", show=False),
        Binding("home", "move(0,-9999)", "first expert", show=False),
        Binding("end", "move(0,9999)", "last expert", show=False),
        Binding("pageup", "move(-8,0)", "8 layers up", show=False),
        Binding("pagedown", "move(8,0)", "8 layers down", show=False),
        Binding("z", "zoom", "zoom", show=False),
        Binding("f", "app.theatre", "fill the screen", show=False),
    ]
    mode: reactive[str] = reactive(AUTO)
    cursor: reactive[tuple[int, int] | None] = reactive(None)

    class Pointed(Message):
        """The cursor names another expert."""

    class Zoomed(Message):
        """Another drawing was asked for."""

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plain = plain
        self.bands = Bands(Drawing(BRAILLE), (0,))
        self._allowed = 4
        self._facts: ModelFacts | None = None
        self._grid: Grid | None = None
        self._painting: Painting | None = None
        self._drawn: tuple[object, ...] = ()
        self._strips: list[Strip] = []
        self._origin = (0, 0)
        self._take_rows()

    @property
    def drawing(self) -> Drawing:
        """The drawing in use."""
        return self.bands.drawing

    @property
    def gutter_width(self) -> int:
        """Columns taken by the layers' numbers."""
        return 0 if self._facts is None else gutter(self._facts)

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Rows and columns of the drawing that are in view: first row, first column, end of both."""
        row, column = self._origin
        rows, columns = len(self.bands.tops), self._columns
        return (
            row,
            column,
            min(rows, row + max(1, self.size.height)),
            min(columns, column + max(1, self.size.width - self.gutter_width)),
        )

    @property
    def _columns(self) -> int:
        return 0 if self._facts is None else self.drawing.columns(max(self._facts.experts))

    @property
    def costly(self) -> bool:
        """Whether it has so many places that it should not be drawn at each frame."""
        return len(self.bands.tops) * self._columns // self.drawing.wide >= MANY

    @property
    def in_view(self) -> tuple[range, range] | None:
        """Layers and experts in view, where that is not all of them."""
        if self._facts is None or not self.size:
            return None
        top, left, bottom, right = self.window
        tops, most = self.bands.tops, max(self._facts.experts)
        layers = range(tops[top], self._facts.layers if bottom == len(tops) else tops[bottom])
        experts = range(self.drawing.expert_at(left), min(most, self.drawing.expert_at(right)))
        return None if len(layers) == self._facts.layers and len(experts) == most else (layers, experts)

    def draw_as(self, drawing: Drawing, allowed: int) -> None:
        """Says how to draw, and in how many rows at most."""
        ranks = self._facts.layer_ranks if self._facts is not None else (0,)
        if (drawing, allowed, ranks) != (self.drawing, self._allowed, self.bands.ranks):
            self.bands, self._allowed = Bands(drawing, ranks), allowed
            self._take_rows()
            self.repaint()

    def show(self, snapshot: Snapshot) -> None:
        """Takes in a snapshot."""
        if snapshot.model is None or len(snapshot.cells) != snapshot.model.offsets[-1]:
            return
        if snapshot.model != self._facts:
            self._facts, self._origin = snapshot.model, (0, 0)
            self.bands = Bands(self.drawing, snapshot.model.layer_ranks)
            self.set_reactive(ResidencyMap.cursor, None)
            self._take_rows()
        self._grid = grid_of(snapshot.cells, snapshot.model)
        self._draw()

    def _take_rows(self) -> None:
        """Takes the rows of the drawing, as far as they may be taken.

        As a style: Textual measures a height again after that, and not always after a second wish for a layout.
        """
        rows = 4 if self._facts is None else len(self.bands.tops)
        self.styles.height = max(1, min(self._allowed, rows))

    def repaint(self) -> None:
        """Draws everything anew, in whatever colours are in force."""
        self._drawn = ()
        self._draw()

    def _paint(self, grid: Grid) -> Painting:
        parts = [paint(grid[first:end], self.drawing) for first, end in self.bands.spans]
        if len(parts) == 1:
            return parts[0]
        return Painting(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("characters", "cells")))

    def _draw(self) -> None:
        """Draws the rows that differ and asks the screen for them."""
        if self._grid is None or self._facts is None or not self.size:
            return
        rows, columns = len(self.bands.tops), self._columns
        self._origin = (
            max(0, min(self._origin[0], rows - self.size.height)),
            max(0, min(self._origin[1], columns - (self.size.width - self.gutter_width))),
        )
        top, left, bottom, right = self.window
        whole = self._paint(self._grid)
        painting = Painting(whole.characters[top:bottom, left:right], whole.cells[top:bottom, left:right])
        here, before = self._cursor_place(), self._painting
        drawn = (self._origin, self.size, self.drawing, here, self.app.current_theme.dark, self._facts, self.app.theme)
        anew = before is None or drawn != self._drawn or before.cells.shape != painting.cells.shape
        if anew or before is None:
            changed = list(range(bottom - top))
            self._strips = [Strip([])] * len(changed)
        else:
            differs = (before.cells != painting.cells) | (before.characters != painting.characters)
            changed = np.flatnonzero(differs.any(axis=1)).tolist()
        self._painting, self._drawn = painting, drawn
        back = self.rich_style.bgcolor
        for y in changed:
            self._strips[y] = self._row(y, painting, here, back)
        if anew:
            self.refresh()
        elif changed:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in changed))

    def _row(self, y: int, painting: Painting, here: tuple[int, int] | None, back: Color | None) -> Strip:
        number = self._number(self._origin[0] + y)
        cursor = None
        if here is not None and here[0] <= y < here[0] + self.drawing.high:
            cursor = here[1], here[1] + max(1, self.drawing.wide - 1)
        segments = [Segment(number, self.get_component_rich_style("residency-map--layer") + Style(bgcolor=back))]
        segments += runs(
            painting.characters[y],
            painting.cells[y],
            self.drawing.kind,
            dark=self.app.current_theme.dark,
            marked=self.app.no_color,
            ground=back,
            cursor=cursor,
        )
        return Strip(segments, len(number) + painting.cells.shape[1]).extend_cell_length(
            self.size.width, Style(bgcolor=back)
        )

    def _number(self, row: int) -> str:
        """Returns what stands before a row: its first layer, and the rank that holds it where there are several."""
        assert self._facts is not None
        tops = self.bands.tops
        layer, first = tops[row], row == 0 or tops[row - 1] != tops[row]
        digits = len(str(self._facts.layers - 1))
        number = f"{layer if first else '':>{digits}} "
        room = self.gutter_width - len(number)
        return f"{self._facts.layer_ranks[layer]:>{room - 1}}{'|' if self.plain else '▎'}{number}" if room else number

    def render_line(self, y: int) -> Strip:
        """Returns one row of the screen."""
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)

    def _cursor_place(self) -> tuple[int, int] | None:
        if self.cursor is None:
            return None
        layer, expert = self.cursor
        return self.bands.row_of(layer) - self._origin[0], self.drawing.column_of(expert) - self._origin[1]

    def on_resize(self) -> None:
        """Draws anew."""
        self.repaint()

    def watch_mode(self) -> None:
        """Asks for another drawing."""
        self.post_message(self.Zoomed())

    def watch_cursor(self) -> None:
        """Brings the cursor into view and tells who it points at."""
        if self.cursor is not None:
            layer, expert = self.cursor
            row, column = self.bands.row_of(layer), self.drawing.column_of(expert)
            high, wide = self.size.height, self.size.width - self.gutter_width
            top, left = self._origin
            self._origin = (min(row, max(top, row - high + 1)), min(column, max(left, column - wide + 1)))
        self._draw()
        self.post_message(self.Pointed())

    def action_move(self, layers: int, experts: int) -> None:
        """Moves the cursor."""
        if self._facts is None:
            return
        layer, expert = self.cursor or (0, 0)
        if self.cursor is not None:
            layer = max(0, min(self._facts.layers - 1, layer + layers))
            expert = max(0, min(self._facts.experts[layer] - 1, expert + experts))
        self.cursor = (layer, expert)

    def action_zoom(self) -> None:
        """Goes on to the next drawing."""
        order = (AUTO, *MODES)
        self.mode = order[(order.index(self.mode) + 1) % len(order)]
        self.app.notify(f"map: {self.mode}", timeout=2)

    def _point(self, event: events.MouseEvent) -> None:
        row, column = self._origin[0] + event.y, self._origin[1] + event.x - self.gutter_width
        if self._facts is None or event.x < self.gutter_width or not 0 <= row < len(self.bands.tops):
            return
        layer, expert = self.bands.tops[row], self.drawing.expert_at(column)
        if expert < self._facts.experts[layer]:
            self.cursor = (layer, expert)

    def on_click(self, event: events.Click) -> None:
        """Points at the expert under the mouse."""
        self._point(event)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Points at the expert under the mouse."""
        self._point(event)

    def on_blur(self) -> None:
        """Leaves no cursor behind."""
        self.cursor = None
