"""One line above the prompt: what is under way and how far it is."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from moe_mlx.system.sizes import show_bytes
from moe_mlx_tui.drawing.spark import meter
from moe_mlx_tui.engine.snapshot import CLOSED, DECODE, EMPTY, FAILED, IDLE, LOADING, Snapshot


class ProgressLine(Widget):
    """Loading in bytes, a prompt in tokens, an answer in tokens."""

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plain = plain
        self._snapshot = Snapshot()

    def show(self, snapshot: Snapshot) -> None:
        """Takes in a snapshot."""
        shown = self._snapshot
        if (shown.phase, shown.activity, shown.done, shown.total, shown.tokens, shown.queued, waited(shown)) != (
            snapshot.phase,
            snapshot.activity,
            snapshot.done,
            snapshot.total,
            snapshot.tokens,
            snapshot.queued,
            waited(snapshot),
        ):
            self.refresh()
        self._snapshot = snapshot

    def render(self) -> Content:
        """Returns the line."""
        now = self._snapshot
        waiting = f" · {now.queued} waiting" if now.queued else ""
        if now.phase == DECODE and not now.activity:
            text = f"answering · {now.tokens} tokens{waiting} · Esc stops"
            return Content.assemble(("● ", "$success"), (text, "$foreground-muted"))
        if now.phase in (IDLE, EMPTY, FAILED, CLOSED) and not now.activity:
            return Content("")
        width = max(8, min(32, self.size.width - 46))
        figure = ""
        if now.total and now.unit == "bytes":
            figure = f"{show_bytes(now.done)} of {show_bytes(now.total)}"
        elif now.total:
            figure = f"{now.done} of {now.total} tokens"
        elif now.phase == LOADING and (seconds := waited(now)):
            mark = ("-\\|/" if self.plain else "⠋⠙⠸⢰⣠⣄⡆⠇")[seconds % (4 if self.plain else 8)]
            figure = f"{mark} {seconds // 60}:{seconds % 60:02}"
        full, empty = meter(now.done / now.total if now.total else 0.0, width, self.plain)
        bar = Content.assemble((full, "$primary"), (empty, "$surface-lighten-2"), " ") if now.total else Content("")
        return Content.assemble(
            ("▶ ", "$primary"), (f"{now.activity or now.phase} ", "$foreground-muted"), bar, figure, waiting
        )


def waited(snapshot: Snapshot) -> int:
    """Returns whole seconds since what is under way began, where nothing else tells that it goes on; else 0."""
    moving = snapshot.phase != LOADING or snapshot.total
    return 0 if moving else int(snapshot.time - snapshot.since)
