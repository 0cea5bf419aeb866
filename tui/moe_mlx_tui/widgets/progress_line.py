"""One line above the prompt: what is under way and how far it is."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size
from textual.content import Content
from textual.widget import Widget

from moe_mlx.system.sizes import show_bytes
from moe_mlx_tui.drawing.spark import meter
from moe_mlx_tui.engine.snapshot import CLOSED, DECODE, EMPTY, FAILED, IDLE, LOADING, Snapshot

#: Columns of the bar; in less than the fewest it says nothing.
SHORTEST, LONGEST = 6, 32


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
        """Returns the line: its figure is whole, the bar takes what is left, and words give way before the figure."""
        now = self._snapshot
        waiting = f" · {now.queued} waiting" if now.queued else ""
        if now.phase == DECODE and not now.activity:
            ways = (f"{waiting} · Esc stops", waiting)
            texts = [f"answering · {now.tokens} tokens{way}" for way in ways] + [f"{now.tokens} tokens{waiting}"]
            text = next((text for text in texts if len(text) + 2 <= self.size.width), texts[-1])
            return Content.assemble(("● ", "$success"), (text, "$foreground-muted"))
        if now.phase in (IDLE, EMPTY, FAILED, CLOSED) and not now.activity:
            return Content("")
        tail = f"{self._figure()}{waiting}"
        room = self.size.width - 2 - cell_len(tail)
        words = _within(f"{now.activity or now.phase} ", room, "..." if self.plain else "…")
        width = min(LONGEST, room - cell_len(words) - 1)
        bar = Content("")
        if now.total and width >= SHORTEST:
            full, empty = meter(now.done / now.total, width, self.plain)
            bar = Content.assemble((full, "$primary"), (empty, "$surface-lighten-2"), " ")
        return Content.assemble(("▶ ", "$primary"), (words, "$foreground-muted"), bar, tail)

    def _figure(self) -> str:
        """Returns how far it is, or for how long it has lasted."""
        now = self._snapshot
        if now.total and now.unit == "bytes":
            return f"{show_bytes(now.done)} of {show_bytes(now.total)}"
        if now.total:
            return f"{now.done} of {now.total} tokens"
        if now.phase == LOADING and (seconds := waited(now)):
            mark = ("-\\|/" if self.plain else "⠋⠙⠸⢰⣠⣄⡆⠇")[seconds % (4 if self.plain else 8)]
            return f"{mark} {seconds // 60}:{seconds % 60:02}"
        return ""


def _within(words: str, room: int, mark: str) -> str:
    """Returns as many of the words as there is room for."""
    if cell_len(words) <= room:
        return words
    return f"{set_cell_size(words, room - len(mark) - 1).rstrip()}{mark} " if room > len(mark) + 4 else ""


def waited(snapshot: Snapshot) -> int:
    """Returns whole seconds since what is under way began, where nothing else tells that it goes on; else 0."""
    moving = snapshot.phase != LOADING or snapshot.total
    return 0 if moving else int(snapshot.time - snapshot.since)
