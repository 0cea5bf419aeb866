"""The cache beside the conversation: map, gauges, memory, layers; on a low screen the last go first."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical

from moe_mlx_tui.drawing.trends import Trends
from moe_mlx_tui.engine.snapshot import Snapshot
from moe_mlx_tui.widgets.gauges import Gauges
from moe_mlx_tui.widgets.layer_strip import LayerStrip
from moe_mlx_tui.widgets.memory_bars import MemoryBars
from moe_mlx_tui.widgets.residency_panel import ResidencyPanel

_BORDER = 2


class SidePanel(Vertical):
    """Shares its height out again whenever it changes."""

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plain = plain
        self._shape: tuple[int, int] | None = None
        self._beat = False

    def compose(self) -> ComposeResult:
        """The four panels."""
        yield ResidencyPanel(plain=self.plain, id="residency")
        yield Gauges(plain=self.plain, id="gauges")
        yield MemoryBars(plain=self.plain, id="memory")
        yield LayerStrip(plain=self.plain, id="layers")

    @property
    def residency(self) -> ResidencyPanel:
        """The map's panel."""
        return self.query_one(ResidencyPanel)

    def show(self, snapshot: Snapshot, trends: Trends) -> None:
        """Takes in a snapshot."""
        self.residency.show(snapshot)
        self._beat = not self._beat
        if self._beat or not snapshot.busy:  # figures are read, not watched: every other frame will do
            self.query_one(Gauges).show(snapshot, trends)
            self.query_one(MemoryBars).show(snapshot)
            self.query_one(LayerStrip).show(snapshot)
        if snapshot.model is not None:
            shape = (snapshot.model.layers, max(snapshot.model.experts))
            if shape != self._shape:
                self._shape = shape
                self.share_out()

    def on_resize(self) -> None:
        """Shares the height out."""
        self.share_out()

    def share_out(self) -> None:
        """Gives the map what it needs, then the others what is left."""
        height = self.size.height
        if not height:
            return
        panel, gauges, memory, layers = (
            self.residency,
            self.query_one(Gauges),
            self.query_one(MemoryBars),
            self.query_one(LayerStrip),
        )
        low, tall = Gauges.COUNT + _BORDER, 2 * Gauges.COUNT + _BORDER
        panel.map.allowed_rows = max(2, height - ResidencyPanel.CHROME - (low if height >= 18 else 0))
        left = height - ResidencyPanel.CHROME - panel.map.rows_for(self.size.width - 4)
        with_memory, with_layers = MemoryBars.ROWS + _BORDER, LayerStrip.ROWS + _BORDER
        gauges.display = left >= low
        gauges.tall = left >= tall + with_memory + with_layers
        left -= (tall if gauges.tall else low) if gauges.display else 0
        memory.display = left >= with_memory
        left -= with_memory if memory.display else 0
        layers.display = left >= with_layers
        gauges.styles.height = tall if gauges.tall else low
        panel.map.refresh(layout=True)
        gauges.refresh()
