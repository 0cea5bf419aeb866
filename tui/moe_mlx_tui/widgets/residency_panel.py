"""The map with its legend and its cursor's line."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from moe_mlx.system.sizes import show_bytes
from moe_mlx_tui.drawing.arrangement import BORDER, FRAME, chrome
from moe_mlx_tui.drawing.cells import HELD, NO_SLOT, STATE_BITS, describe, resident_count
from moe_mlx_tui.drawing.drawings import Drawing
from moe_mlx_tui.engine.snapshot import Snapshot
from moe_mlx_tui.widgets.legend import Legend
from moe_mlx_tui.widgets.residency_map import ResidencyMap


class ResidencyPanel(Vertical):
    """Positions are fixed: an expert is found where it was."""

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self._snapshot = Snapshot()
        self._said: Content | None = None
        self.map = ResidencyMap(plain=plain, id="map")
        self.legend = Legend(plain=plain, id="legend")
        self.border_title = "residency"

    def compose(self) -> ComposeResult:
        """Map, legend, cursor."""
        yield self.map
        yield self.legend
        yield Static(id="pointer")

    def show(self, snapshot: Snapshot) -> None:
        """Takes in a snapshot."""
        if snapshot is self._snapshot:
            return
        self._snapshot = snapshot
        self.map.show(snapshot)
        self.explain()

    def draw_as(self, drawing: Drawing, rows: int) -> None:
        """Says how to draw, and in how many rows at most."""
        self.map.draw_as(drawing, rows)
        self.explain()

    def on_resize(self, event: events.Resize) -> None:
        """The legend stands in one line where it can; what is in view depends on the size too."""
        self.legend.styles.height = chrome(event.size.width + FRAME) - BORDER - 1
        self.call_after_refresh(self.explain)

    def on_residency_map_pointed(self) -> None:
        """Names the expert under the cursor."""
        self.explain()

    def repaint(self) -> None:
        """Draws map and legend anew, in whatever colours are in force."""
        self.map.repaint()
        self.legend.repaint()

    def explain(self) -> None:
        """Writes titles, legend and the cursor's line."""
        facts = self._snapshot.model
        if facts is not None:
            ranks = len(set(facts.layer_ranks))
            several = f" on {ranks} machines" if ranks > 1 else ""
            resident, every = resident_count(self._snapshot.cells), len(self._snapshot.cells)
            window = self._window()
            titles = (
                f"residency {facts.layers}×{max(facts.experts)}{several}",
                f"{window}{resident}/{every} {'' if window else 'experts '}in memory",
            )
            if titles != (self.border_title, self.border_subtitle):  # setting one draws the whole panel
                self.border_title, self.border_subtitle = titles
        self.legend.show(self._snapshot, self.map.drawing)
        said = self.pointed() if facts is not None else Content("")
        if self._said is None or not self._said.is_same(said):
            self._said = said
            self.query_one("#pointer", Static).update(said, layout=False)

    def _window(self) -> str:
        """Returns which part of the model is in view, if it is not all of it."""
        if (shown := self.map.in_view) is None:
            return ""
        layers, experts = shown
        if not layers or not experts:  # the map has no room yet: the panel is sized before it
            return ""
        return f"layers {layers[0]}-{layers[-1]}, experts {experts[0]}-{experts[-1]} · "

    def pointed(self) -> Content:
        """Returns the cursor's line."""
        cursor, snapshot = self.map.cursor, self._snapshot
        if cursor is None or snapshot.model is None:
            hint = "mouse, or Tab and arrows, point; z zooms, F4 fills"
            return Content.styled(hint, "$foreground-disabled")
        layer, expert = cursor
        place = snapshot.model.offsets[layer] + expert
        cell = snapshot.cells[place]
        uses, reads = snapshot.counts(place)
        slot = int.from_bytes(snapshot.slots[place * 2 : place * 2 + 2], "little")
        rank = snapshot.model.layer_ranks[layer]
        words = [
            f"layer {layer} expert {expert}" + (f" on machine {rank}" if len(set(snapshot.model.ranks)) > 1 else ""),
            describe(cell),
            "no slot" if slot == NO_SLOT else f"slot {slot}",
            "uses not counted" if cell & STATE_BITS == HELD else f"used {uses}x, read {reads}x",
            show_bytes(snapshot.model.expert_bytes[layer]),
        ]
        return Content(" · ".join(words))
