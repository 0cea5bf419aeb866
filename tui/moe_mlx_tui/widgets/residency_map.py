"""The residency map: layers down, experts across, positions fixed; only rows that changed are drawn again."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from moe_mlx_tui.drawing.painting import (
    ASCII,
    BRAILLE,
    EXPERTS_A_CELL,
    HALF,
    LAYERS_A_CELL,
    MODES,
    TILES,
    Grid,
    fitting_mode,
    grid_of,
    paint,
)
from moe_mlx_tui.drawing.ramp import pair_style, state_style
from moe_mlx_tui.engine.snapshot import ModelFacts, Snapshot

AUTO = "auto"
_CURSOR = Style(reverse=True)


class ResidencyMap(Widget, can_focus=True):
    """A cell per expert. `mode` is a drawing, or `AUTO` for the largest that shows everything."""

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
    ]
    mode: reactive[str] = reactive(AUTO)
    cursor: reactive[tuple[int, int] | None] = reactive(None)

    class Pointed(Message):
        """The cursor names another expert."""

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plain, self.allowed_rows = plain, 24
        self._facts: ModelFacts | None = None
        self._grid: Grid | None = None
        self._rows: list[Strip] = []
        self._origin = (0, 0)

    @property
    def drawing(self) -> str:
        """The drawing in use."""
        if self.plain:
            return ASCII
        if self.mode != AUTO or self._facts is None:
            return BRAILLE if self.mode == AUTO else self.mode
        width = self.size.width - self.gutter_width
        return fitting_mode(self._facts.layers, max(self._facts.experts), width, self.allowed_rows)

    @property
    def gutter_width(self) -> int:
        """Columns taken by layer numbers."""
        return 0 if self._facts is None else len(str(self._facts.layers - 1)) + 1

    @property
    def origin(self) -> tuple[int, int]:
        """First layer and first expert shown."""
        return self._origin

    def shown(self) -> tuple[int, int]:
        """Returns how many layers and experts fit."""
        drawing = self.drawing
        columns = max(1, self.size.width - self.gutter_width)
        return max(1, self.size.height) * LAYERS_A_CELL[drawing], int(columns * EXPERTS_A_CELL[drawing])

    def show(self, snapshot: Snapshot) -> None:
        """Takes in a snapshot."""
        if snapshot.model is None or len(snapshot.cells) != snapshot.model.offsets[-1]:
            return
        if snapshot.model != self._facts:
            self._facts, self._rows, self._origin = snapshot.model, [], (0, 0)
            self.set_reactive(ResidencyMap.cursor, None)
            self.refresh(layout=True)
        self._grid = grid_of(snapshot.cells, snapshot.model)
        self._draw()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Returns the rows of the drawing that fits."""
        return self.rows_for(width)

    def rows_for(self, width: int) -> int:
        """Returns the rows that the drawing takes at a width, within `allowed_rows`."""
        if self._facts is None:
            return min(4, self.allowed_rows)
        drawing = ASCII if self.plain else self.mode
        if drawing == AUTO:
            columns = width - self.gutter_width
            drawing = fitting_mode(self._facts.layers, max(self._facts.experts), columns, self.allowed_rows)
        return max(1, min(self.allowed_rows, -(-self._facts.layers // LAYERS_A_CELL[drawing])))

    def _draw(self) -> None:
        """Draws all rows and asks the screen for those that differ."""
        if self._grid is None or self._facts is None or not self.size:
            return
        layers, experts = self.shown()
        top = max(0, min(self._origin[0], self._facts.layers - layers))
        left = max(0, min(self._origin[1], max(self._facts.experts) - experts))
        self._origin = (top, left)
        drawing = self.drawing
        painting = paint(self._grid[top : top + layers, left : left + experts], drawing)
        here = self._cursor_cell(drawing)
        dark = self.app.current_theme.dark
        rows = [
            self._row(y, "".join(map(chr, characters)), states, drawing, here, dark)
            for y, (characters, states) in enumerate(
                zip(painting.characters.tolist(), painting.states.tolist(), strict=True)
            )
        ]
        before, self._rows = self._rows, rows
        if len(before) != len(rows):
            self.refresh()
            return
        changed = [Region(0, y, self.size.width, 1) for y, row in enumerate(rows) if row != before[y]]
        if changed:
            self.refresh(*changed)

    def _row(
        self, y: int, text: str, states: list[int], drawing: str, here: tuple[int, int] | None, dark: bool
    ) -> Strip:
        layer = self._origin[0] + y * LAYERS_A_CELL[drawing]
        back = self.rich_style.bgcolor
        number = f"{layer:>{self.gutter_width - 1}} "
        segments = [Segment(number, self.get_component_rich_style("residency-map--layer") + Style(bgcolor=back))]
        start, count = 0, len(states)
        mark = here[1] if here is not None and here[0] == y else -1
        marked = self.app.no_color
        for x in range(1, count + 1):
            if x < count and states[x] == states[start] and mark not in (x, start):
                continue
            state = states[start]
            style = pair_style(state >> 4, state & 15, dark) if drawing == HALF else state_style(state, dark, marked)
            style = Style(bgcolor=back) + style
            segments.append(Segment(text[start:x], style + _CURSOR if start == mark else style))
            start = x
        return Strip(segments, len(number) + count).extend_cell_length(self.size.width, Style(bgcolor=back))

    def render_line(self, y: int) -> Strip:
        """Returns one row of the screen."""
        return self._rows[y] if y < len(self._rows) else Strip.blank(self.size.width, self.rich_style)

    def _cursor_cell(self, drawing: str) -> tuple[int, int] | None:
        if self.cursor is None:
            return None
        layer, expert = self.cursor
        y = (layer - self._origin[0]) // LAYERS_A_CELL[drawing]
        x = int((expert - self._origin[1]) / EXPERTS_A_CELL[drawing])
        return y, x

    def on_resize(self) -> None:
        """Draws anew."""
        self._rows = []
        self._draw()

    def watch_mode(self) -> None:
        """Draws anew in another mode."""
        self._rows = []
        self.refresh(layout=True)
        self._draw()

    def watch_cursor(self) -> None:
        """Brings the cursor into view and tells who it points at."""
        if self.cursor is not None:
            layers, experts = self.shown()
            top, left = self._origin
            layer, expert = self.cursor
            top = layer if layer < top else max(top, layer - layers + 1)
            left = expert if expert < left else max(left, expert - experts + 1)
            step = LAYERS_A_CELL[self.drawing]
            self._origin = (-(-top // step) * step, left + left % 2)
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
        self.app.notify(f"map: {self.mode}" + (f" ({self.drawing})" if self.mode == AUTO else ""), timeout=2)

    def _point(self, event: events.MouseEvent) -> None:
        if self._facts is None:
            return
        drawing = self.drawing
        layer = self._origin[0] + event.y * LAYERS_A_CELL[drawing]
        expert = self._origin[1] + int((event.x - self.gutter_width) * EXPERTS_A_CELL[drawing])
        if event.x >= self.gutter_width and layer < self._facts.layers and expert < self._facts.experts[layer]:
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


__all__ = ["AUTO", "TILES", "ResidencyMap"]
