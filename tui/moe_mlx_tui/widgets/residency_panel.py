"""The map with its cursor's line and its legend."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from moe_mlx.system.sizes import show_bytes
from moe_mlx_tui.drawing.cells import (
    ABSENT,
    AGE_EDGES,
    ARRIVED,
    EVICTED,
    HELD,
    NEWEST,
    NO_SLOT,
    OLDEST,
    USED,
    census,
    describe,
)
from moe_mlx_tui.drawing.painting import BRAILLE, EXPERTS_A_CELL, HALF, LAYERS_A_CELL
from moe_mlx_tui.drawing.ramp import sign, state_style
from moe_mlx_tui.engine.snapshot import Snapshot
from moe_mlx_tui.widgets.residency_map import ResidencyMap

#: Cells of the legend's first line, with room for four digits in each count.
LEGEND_WIDTH = 54


class ResidencyPanel(Vertical):
    """Positions are fixed: an expert is found where it was."""

    #: Border, the cursor's line and the legend.
    CHROME = 5

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plain = plain
        self._snapshot = Snapshot()
        self._written: dict[str, Content] = {}
        self.border_title = "residency"

    def compose(self) -> ComposeResult:
        """Map, legend, cursor."""
        yield ResidencyMap(plain=self.plain, id="map")
        yield Static(id="legend")
        yield Static(id="pointer")

    @property
    def map(self) -> ResidencyMap:
        """The map itself."""
        return self.query_one("#map", ResidencyMap)

    def show(self, snapshot: Snapshot) -> None:
        """Takes in a snapshot."""
        if snapshot is self._snapshot:
            return
        self._snapshot = snapshot
        self.map.show(snapshot)
        if snapshot.model is not None:
            facts = snapshot.model
            title = f"residency {facts.layers}×{max(facts.experts)}"
            if title != self.border_title:
                self.border_title = title
        self.explain()

    def on_resize(self) -> None:
        """The legend depends on the drawing, which depends on the size."""
        self.call_after_refresh(self.explain)

    def on_residency_map_pointed(self) -> None:
        """Names the expert under the cursor."""
        self.explain()

    def repaint(self) -> None:
        """Draws map and legend anew, in whatever colours are in force."""
        self.map.on_resize()
        self._written.clear()
        self.explain()

    def explain(self) -> None:
        """Writes the legend and the cursor's line."""
        known = self._snapshot.model is not None
        if known:
            resident, every = census(self._snapshot.cells)[0], len(self._snapshot.cells)
            window = self._window()
            subtitle = f"{window}{resident}/{every} {'' if window else 'experts '}in memory"
            if subtitle != self.border_subtitle:  # setting it draws the whole panel
                self.border_subtitle = subtitle
        for name, content in (
            ("#legend", self._legend() if known else Content("")),
            ("#pointer", self._pointer() if known else Content("")),
        ):
            if (before := self._written.get(name)) is None or not before.is_same(content):
                self._written[name] = content
                self.query_one(name, Static).update(content, layout=False)

    def _legend(self) -> Content:
        _, used, arrived, evicted = census(self._snapshot.cells)
        dark = self.app.current_theme.dark
        quiet = "$foreground-muted"
        parts: list[Content | str | tuple[str, str]] = []
        # One cell too few would push the ages out of view.
        width = 5 if self.query_one("#legend").size.width >= LEGEND_WIDTH else 4
        for state, word, count in (
            (USED, "in use", used),
            (ARRIVED, "just read", arrived),
            (EVICTED, "evicted", evicted),
        ):
            parts += [self._sample(state, dark), (f" {word} ", quiet), f"{count:<{width}}"]
        parts += [self._sample(ABSENT, dark), (" absent\ntokens ago ", quiet)]
        for state in range(NEWEST, OLDEST - 1, -1):
            edge = f"≤{AGE_EDGES[NEWEST - state]} " if state > OLDEST else "more"
            parts += [self._sample(state, dark), (edge, quiet)]
        parts.append((self._cell_size(), "$foreground-disabled"))
        return Content.assemble(*parts)

    def _cell_size(self) -> str:
        """Returns what one screen cell stands for, layers × experts."""
        drawing = self.map.drawing
        return f"  a cell {LAYERS_A_CELL[drawing]}×{EXPERTS_A_CELL[drawing]:g}" if drawing in (BRAILLE, HALF) else ""

    def _window(self) -> str:
        """Returns which part of the model is in view, if it is not all of it."""
        facts = self._snapshot.model
        layers, experts = self.map.shown()
        if facts is None or not self.map.size.width or (layers >= facts.layers and experts >= max(facts.experts)):
            return ""
        top, left = self.map.origin
        until, last = min(facts.layers, top + layers), min(max(facts.experts), left + experts)
        return f"layers {top}-{until - 1}, experts {left}-{last - 1} · "

    def _sample(self, state: int, dark: bool) -> Content:
        text = sign(state, self.plain)
        style = state_style(state, dark, self.app.no_color)
        colour = style.color
        name = colour.triplet.hex if colour is not None and colour.triplet is not None else ""
        marks = " ".join(
            word for word, on in (("bold", style.bold), ("underline", style.underline), ("strike", style.strike)) if on
        )
        return Content.styled(text, f"{marks} {name}".strip())

    def _pointer(self) -> Content:
        cursor, snapshot = self.map.cursor, self._snapshot
        if cursor is None or snapshot.model is None:
            hint = "point with the mouse, or Tab and arrows; z zooms"
            return Content.styled(hint, "$foreground-disabled")
        layer, expert = cursor
        place = snapshot.model.offsets[layer] + expert
        cell = snapshot.cells[place]
        uses, reads = snapshot.counts(place)
        slot = int.from_bytes(snapshot.slots[place * 2 : place * 2 + 2], "little")
        words = [
            f"layer {layer} expert {expert}",
            describe(cell),
            "no slot" if slot == NO_SLOT else f"slot {slot}",
            "uses not counted" if cell == HELD else f"used {uses}x, read {reads}x",
            show_bytes(snapshot.model.expert_bytes[layer]),
        ]
        return Content(" · ".join(words))
