"""The cache beside the conversation, or over it in the theatre: map, gauges, memory, layers."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Container
from textual.geometry import Size

from moe_mlx_tui.drawing.arrangement import (
    BAND,
    BELOW,
    BESIDE,
    BESIDE_FROM,
    BORDER,
    TALK_ROWS,
    Arrangement,
    arranged,
    side_columns,
)
from moe_mlx_tui.drawing.trends import Trends
from moe_mlx_tui.engine.snapshot import ModelFacts, Snapshot
from moe_mlx_tui.widgets.gauges import Gauges
from moe_mlx_tui.widgets.layer_strip import LayerStrip
from moe_mlx_tui.widgets.memory_bars import MemoryBars
from moe_mlx_tui.widgets.residency_map import ResidencyMap
from moe_mlx_tui.widgets.residency_panel import ResidencyPanel

#: Seconds between two drawings of a costly map while the model is at work: a quarter of the frames at the usual rate.
PAUSE = 0.75


class SidePanel(Container):
    """Shares its room out again whenever its size, the model or the drawing changes."""

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plain = plain
        self._facts: ModelFacts | None = None
        self._screen, self._theatre = Size(0, 0), False
        self._beat, self._shown_at = False, 0.0
        self.residency = ResidencyPanel(plain=plain, id="residency")
        self.gauges = Gauges(plain=plain, id="gauges")
        self.memory = MemoryBars(plain=plain, id="memory")
        self.rates = LayerStrip(plain=plain, id="layers")
        self._figures, self._lower = Container(id="figures"), Container(id="lower")

    def compose(self) -> ComposeResult:
        """The map, and the figures below it or at its right."""
        yield self.residency
        with self._figures:
            yield self.gauges
            with self._lower:
                yield self.memory
                yield self.rates

    def show(self, snapshot: Snapshot, trends: Trends) -> None:
        """Takes in a snapshot; beside a costly map everything waits for the map's turn, and is of one moment then."""
        costly = self.residency.map.costly and snapshot.model == self._facts
        if costly and snapshot.busy and 0 <= snapshot.time - self._shown_at < PAUSE:
            return
        self._shown_at = snapshot.time
        self.residency.show(snapshot)
        self._beat = not self._beat
        if costly or self._beat or not snapshot.busy:  # figures are read, not watched: every other frame will do
            self.gauges.show(snapshot, trends)
            self.memory.show(snapshot)
            self.rates.show(snapshot)
        if snapshot.model is not None and snapshot.model != self._facts:
            self._facts = snapshot.model
            self.fit(self._screen, theatre=self._theatre)
            self.share_out()

    def fit(self, screen: Size, *, theatre: bool) -> None:
        """Takes its part of a screen of that size."""
        self._screen, self._theatre = screen, theatre
        if theatre:
            most = screen.height - 1 - min(TALK_ROWS, screen.height // 2)
            self.styles.width = "100%"
            self.styles.height = max(3, self._arranged(Size(screen.width, most)).height)
            return
        self.styles.height = "100%"
        if screen.width < BESIDE_FROM:
            self.styles.width = "1fr"
        else:
            self.styles.width = side_columns(screen.width, screen.height, self._facts, plain=self.plain)

    def on_resize(self) -> None:
        """Shares the room out."""
        self.share_out()

    def on_residency_map_zoomed(self, event: ResidencyMap.Zoomed) -> None:
        """Draws in the way that was asked for, if it can be."""
        self.fit(self._screen, theatre=self._theatre)
        self.share_out()

    def _arranged(self, size: Size) -> Arrangement:
        kind = self.residency.map.mode
        return arranged(size.width, size.height, self._facts, kind=kind, theatre=self._theatre, plain=self.plain)

    def share_out(self) -> None:
        """Gives each part what it gets in the room there is."""
        if not self.size.height:
            return
        room = self._arranged(self.size)
        self.residency.draw_as(room.drawing, room.rows)
        band = room.figures == BAND
        for figures in (BELOW, BAND, BESIDE):
            self.set_class(room.figures == figures, f"-{figures}")
        self.set_class(band and room.layers < MemoryBars.HEIGHT + LayerStrip.HEIGHT, "-low")
        self.residency.styles.width = room.columns or "100%"
        self._figures.styles.height = room.layers if band else "1fr"
        self.gauges.display, self.gauges.lines = room.lines > 0, room.lines
        self.memory.display, self.rates.display = room.memory, room.layers > 0
        self.gauges.styles.height = "100%" if band else room.lines * Gauges.COUNT + BORDER
        self.rates.styles.height = "1fr" if band else room.layers
        self.gauges.refresh()
