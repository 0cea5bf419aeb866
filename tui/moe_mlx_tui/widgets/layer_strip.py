"""Hit rate layer by layer, the worst one named: two lines of bars, or everything in one line on a narrow screen."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from moe_mlx.counts.totals import hit_rate
from moe_mlx_tui.drawing.spark import columns, spread
from moe_mlx_tui.engine.snapshot import Snapshot


class LayerStrip(Widget):
    """A bar per layer."""

    ROWS = 3

    def __init__(self, *, one_line: bool = False, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.one_line, self.plain = one_line, plain
        self._rates: list[float] = []
        self._seen = False
        if not one_line:
            self.border_title = "hit rate by layer"

    def show(self, snapshot: Snapshot) -> None:
        """Takes in a snapshot."""
        pairs = list(zip(snapshot.layer_hits, snapshot.layer_misses, strict=True))
        rates = [hit_rate(hits, misses) for hits, misses in pairs]
        if rates != self._rates:
            self._rates, self._seen = rates, any(hits + misses for hits, misses in pairs)
            self.refresh()

    def render(self) -> Content:
        """Returns the strip."""
        if not self._rates or not self._seen:
            waiting = "a bar per layer appears with the first token"
            return Content.styled(f"layers  {waiting}" if self.one_line else waiting, "$foreground-disabled")
        worst = min(range(len(self._rates)), key=self._rates.__getitem__)
        best = max(range(len(self._rates)), key=self._rates.__getitem__)
        if self.one_line:
            tail = f"  worst {worst}: {self._rates[worst]:.0%}"
            width = max(4, self.size.width - 8 - len(tail))
            bars = spread(self._rates, width)
            line = columns(bars, len(bars), 1.0, plain=self.plain)[0]
            return Content.assemble(("layers  ", "$foreground-muted"), (line, "$success"), (tail, "$warning"))
        bars = spread(self._rates, self.size.width)
        top, bottom = columns(bars, len(bars), 1.0, 2, self.plain)
        return Content.assemble(
            (top, "$success"),
            "\n",
            (bottom, "$success"),
            "\n",
            ("worst ", "$foreground-muted"),
            (f"layer {worst} {self._rates[worst]:.0%}", "$warning"),
            ("   best ", "$foreground-muted"),
            (f"layer {best} {self._rates[best]:.0%}", "$success"),
        )
