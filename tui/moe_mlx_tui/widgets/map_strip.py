"""The map in three rows, where there is no room for it beside the conversation; a click opens the whole."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from moe_mlx_tui.drawing.cells import resident_count
from moe_mlx_tui.drawing.folding import fold
from moe_mlx_tui.drawing.painting import grid_of
from moe_mlx_tui.drawing.runs import runs
from moe_mlx_tui.engine.snapshot import Snapshot
from moe_mlx_tui.widgets.layer_strip import layer_rates

#: Columns of the words at the right, and the columns from which there is room for them.
WORDS, WORDS_FROM = 16, 44


class MapStrip(Widget):
    """Layers from left to right, experts folded, figures at the right end."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"map-strip--words"}

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plain = plain
        self._snapshot = Snapshot()
        self._rows: list[list[Segment]] = []
        self._words: list[str] = []

    def show(self, snapshot: Snapshot) -> None:
        """Takes in a snapshot."""
        moved = snapshot.cells != self._snapshot.cells or snapshot.layer_misses != self._snapshot.layer_misses
        self._snapshot = snapshot
        if moved and self.size.width:
            self.repaint()

    def repaint(self) -> None:
        """Draws anew, in whatever colours are in force."""
        self._rows, self._words = [], []
        now = self._snapshot
        if now.model is not None and len(now.cells) == now.model.offsets[-1] and self.size:
            width = self.size.width - (WORDS + 2 if self.size.width >= WORDS_FROM else 0)
            painting, kind = fold(grid_of(now.cells, now.model), width, self.size.height, plain=self.plain)
            dark, marked, ground = self.app.current_theme.dark, self.app.no_color, self.rich_style.bgcolor
            self._rows = [
                runs(*row, kind, dark=dark, marked=marked, ground=ground)
                for row in zip(painting.characters, painting.cells, strict=True)
            ]
            self._words = self._told(now)
        self.refresh()

    @staticmethod
    def _told(now: Snapshot) -> list[str]:
        """Returns the most wanted figure last: a strip of one row shows that alone."""
        words = [f"held {resident_count(now.cells)}/{len(now.cells)}"]
        if rates := layer_rates(now):
            worst = min(range(len(rates)), key=rates.__getitem__)
            words += [f"worst {worst}: {rates[worst]:.0%}", f"hit {now.answer.hit_rate:.0%}"]
        return words

    def on_resize(self) -> None:
        """Folds anew."""
        self.repaint()

    def on_click(self) -> None:
        """Shows the whole map."""
        self.app.call_later(self.app.run_action, "swap_map")

    def render_line(self, y: int) -> Strip:
        """Returns one row of the screen."""
        width, style = self.size.width, self.rich_style
        strip = Strip(self._rows[y] if y < len(self._rows) else [])
        if width < WORDS_FROM or not self._words:
            return strip.extend_cell_length(width, style).crop(0, width)
        words = self._words[-self.size.height :]
        told = f"{words[y] if y < len(words) else '':<{WORDS}}"
        quiet = Segment(told, style + self.get_component_rich_style("map-strip--words", partial=True))
        return Strip.join([strip.adjust_cell_length(width - WORDS, style), Strip([quiet], WORDS)])
