"""Hit rate layer by layer as bars, the worst and the best named."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from moe_mlx.counts.totals import hit_rate
from moe_mlx_tui.drawing.spark import columns, spread
from moe_mlx_tui.engine.snapshot import Snapshot


def layer_rates(snapshot: Snapshot) -> list[float]:
    """Returns the hit rate of each layer; empty before anything was chosen."""
    pairs = list(zip(snapshot.layer_hits, snapshot.layer_misses, strict=True))
    return [hit_rate(hits, misses) for hits, misses in pairs] if any(map(any, pairs)) else []


class LayerStrip(Widget):
    """A bar per layer, as high as there is room."""

    #: At least, with its border.
    HEIGHT = 5

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plain = plain
        self._rates: list[float] = []
        self.border_title = "hit rate by layer"

    def show(self, snapshot: Snapshot) -> None:
        """Takes in a snapshot."""
        rates = layer_rates(snapshot)
        if rates != self._rates:
            self._rates = rates
            self.refresh()

    def render(self) -> Content:
        """Returns the bars."""
        rates = self._rates
        if not rates:
            return Content.styled("a bar per layer appears with the first token", "$foreground-disabled")
        worst = min(range(len(rates)), key=rates.__getitem__)
        best = max(range(len(rates)), key=rates.__getitem__)
        bars = spread(rates, self.size.width)
        lines = columns(bars, len(bars), 1.0, max(1, self.size.height - 1), self.plain)
        return Content("\n").join(
            [
                *(Content.styled(line, "$success") for line in lines),
                Content.assemble(
                    ("worst ", "$foreground-muted"),
                    (f"layer {worst} {rates[worst]:.0%}", "$warning"),
                    ("   best ", "$foreground-muted"),
                    (f"layer {best} {rates[best]:.0%}", "$success"),
                ),
            ]
        )
