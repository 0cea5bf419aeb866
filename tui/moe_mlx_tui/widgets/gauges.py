"""Gauges with history: hit rate, swapped share (or the budget spent), tokens a second, read rate, wait share."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from moe_mlx.system.sizes import show_bytes
from moe_mlx_tui.drawing.spark import columns
from moe_mlx_tui.drawing.trends import Trends
from moe_mlx_tui.engine.snapshot import DECODE, Snapshot

_LABEL = 22


class Gauges(Widget):
    """Five gauges of `lines` lines each; from two on, each says a second figure."""

    COUNT = 5

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plain, self.lines = plain, 1
        self._snapshot, self._trends = Snapshot(), Trends()
        self.border_title = "decode"

    def show(self, snapshot: Snapshot, trends: Trends) -> None:
        """Takes in a snapshot and what came before it."""
        same = snapshot.answer == self._snapshot.answer and snapshot.phase == self._snapshot.phase
        moved = snapshot.running != self._snapshot.running or snapshot.tps != self._snapshot.tps
        self._snapshot, self._trends = snapshot, trends
        if not same or moved:
            self.refresh()

    def _lines(self) -> list[tuple[str, str, str, str, list[float], float, str]]:
        now, trends = self._snapshot, self._trends
        answer = now.answer
        rate = trends.read[-1] if trends.read and now.busy else 0.0
        speed = now.tps if now.phase == DECODE else (now.receipt.tps if now.receipt else 0.0)
        wait = trends.wait[-1] if trends.wait else 0.0
        peak = max([*trends.speed, speed])  # a short answer ends before there is a trend
        fastest = max(trends.read, default=0.0)
        widest = max(max(trends.swapped, default=0.0), 0.1)
        longest = max(max(trends.wait, default=0.0), 0.2)
        nbytes = show_bytes(answer.disk_bytes + now.prefill.bytes_read)
        waited = f"{answer.wait_seconds:.2f} s"
        hits = (f"{answer.hit_rate:.1%}", "missed", f"{answer.misses:,}")
        swapped = (f"{answer.swapped_share:.1%}", "weight moved", f"{answer.weight_moved:,.2f}")
        loss = ("swapped", *swapped, [*trends.swapped], widest, "$warning")
        if trends.spent or now.spent:  # a budget is held: what is spent of it says more
            most = max([*trends.spent, now.spent, 1.0])
            loss = ("budget", f"{now.spent:.0%} spent", "swapped", swapped[0], [*trends.spent], most, "$warning")
        return [
            ("hit rate", *hits, [*trends.hit], 1.0, "$success"),
            loss,
            ("tokens/s", f"{speed:.1f}", "peak", f"{peak:.1f}", [*trends.speed], peak, "$primary"),
            ("read", f"{show_bytes(rate)}/s", "this answer", nbytes, [*trends.read], fastest, "$accent"),
            (
                "waiting",
                f"{wait:.0%}",
                "this answer",
                waited,
                [*trends.wait],
                longest,
                "$error",
            ),
        ]

    def render(self) -> Content:
        """Returns the gauges."""
        if not self._snapshot.running.steps and not self._trends.read:
            return Content.styled("these appear with the first token", "$foreground-disabled")
        width = self.size.width - _LABEL - 2
        out: list[Content] = []
        for label, value, second, figure, values, ceiling, colour in self._lines():
            words = [
                Content.assemble((f"{label:<10}", "$foreground-muted"), (f"{value:>{_LABEL - 10}}", "bold")),
                Content.styled(f"{second:<12}{figure:>{_LABEL - 12}}", "$foreground-disabled"),
                *[Content(" " * _LABEL)] * (self.lines - 2),
            ]
            bars = columns(values, width, ceiling, self.lines, self.plain)
            out += [Content.assemble(word, "  ", (bar, colour)) for word, bar in zip(words, bars, strict=False)]
        return Content("\n").join(out)
