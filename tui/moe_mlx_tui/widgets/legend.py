"""What the map's signs and colours mean: samples drawn as the map draws them, in the theme's colours."""

from __future__ import annotations

import numpy as np
from textual.content import Content
from textual.style import Style
from textual.widget import Widget

from moe_mlx_tui.drawing.arrangement import LEGEND_LINE
from moe_mlx_tui.drawing.cells import ABSENT, ARRIVED, COARSE, EVICTED, HELD, NEWEST, OLDEST, STATES, USED, states_of
from moe_mlx_tui.drawing.drawings import BRAILLE, CELLS, HALF, Drawing
from moe_mlx_tui.drawing.painting import paint
from moe_mlx_tui.drawing.ramp import LOOKS
from moe_mlx_tui.drawing.runs import runs
from moe_mlx_tui.engine.snapshot import ModelFacts, Snapshot

#: Columns from which the counts stay where they are as they grow, up to four digits each.
ROOMY = 58
#: Always explained; any other state once a model has shown it.
_COUNTED = (USED, ARRIVED, EVICTED)
_AGES = range(NEWEST, OLDEST - 1, -1)


class Legend(Widget):
    """One line where there is room, else two: states with how many are in each, then ages."""

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plain = plain
        self._drawing = Drawing(BRAILLE)
        self._cells = b""
        self._facts: ModelFacts | None = None
        self._met: set[int] = set()
        self._content = Content("")
        self._samples: dict[tuple[int, Drawing, bool, bool], Content] = {}

    def show(self, snapshot: Snapshot, drawing: Drawing) -> None:
        """Takes in a snapshot, and how it is drawn."""
        if snapshot.model != self._facts:
            self._facts, self._met = snapshot.model, set()
        self._cells, self._drawing = snapshot.cells, drawing
        self._met |= set(snapshot.cells)
        self.repaint()

    def repaint(self) -> None:
        """Writes it anew, in whatever colours are in force."""
        content = self._explained() if self._facts is not None else Content("")
        if not content.is_same(self._content):  # `==` compares the words alone
            self._content = content
            self.refresh()

    def on_resize(self) -> None:
        """One line or two."""
        self.repaint()

    def render(self) -> Content:
        """Returns the lines."""
        return self._content

    def sample(self, cell: int) -> Content:
        """Returns a cell as the map draws it."""
        looks = cell, self._drawing, self.app.current_theme.dark, self.app.no_color
        if looks not in self._samples:
            self._samples[looks] = self._sampled(*looks)
        return self._samples[looks]

    def _sampled(self, cell: int, drawing: Drawing, dark: bool, marked: bool) -> Content:
        place = np.full((drawing.down, drawing.across), cell, dtype=np.uint8)
        if cell == ABSENT and drawing.kind in (BRAILLE, CELLS):
            return Content("rest")
        if cell == EVICTED and drawing.kind == BRAILLE:  # it has no dot, and colours the place that it left
            place[1:] = OLDEST
        painting = paint(place, drawing)
        (first, *_) = runs(
            painting.characters[0, :1],
            painting.cells[0, :1],
            drawing.kind,
            dark=dark,
            marked=marked,
            ground=None,
        )
        assert first.style is not None
        return Content.styled(first.text, Style.from_rich_style(first.style))

    def _explained(self) -> Content:
        quiet = "$foreground-muted"
        states = states_of(self._cells)
        parts: list[Content | str | tuple[str, str]] = []
        width = 5 if self.size.width >= ROOMY else 0
        told = {*_COUNTED, *(state for state in range(HELD, STATES) if state in self._met)}
        for state in sorted(told, key=lambda state: (state not in _COUNTED, state != USED, -state)):
            parts += [self.sample(state), (f" {LOOKS[state].word} ", quiet), f"{states.count(state)} ".ljust(width)]
        if any(cell & COARSE for cell in self._met):
            coarse = sum(map(self._cells.count, range(COARSE, 2 * COARSE)))
            parts += [self.sample(COARSE | NEWEST), (" coarse ", quiet), f"{coarse} ".ljust(width)]
        parts += [self.sample(ABSENT), (" absent", quiet)]
        parts.append(("   tokens ago " if self.size.width >= LEGEND_LINE else "\ntokens ago ", quiet))
        for state in _AGES:
            parts += [self.sample(state), (LOOKS[state].word + (" " if state > OLDEST else ""), quiet)]
        if self._drawing.kind in (BRAILLE, HALF):
            parts.append((f"  a cell {self._drawing.down}×{self._drawing.across}", "$foreground-disabled"))
        return Content.assemble(*parts)
