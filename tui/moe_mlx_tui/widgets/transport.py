"""Where a replay stands, in place of the prompt."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from moe_mlx_tui.drawing.spark import meter
from moe_mlx_tui.recording.player import Player


class Transport(Widget):
    """One line: paused or not, position, speed."""

    def __init__(self, player: Player, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.player, self.plain = player, plain

    def render(self) -> Content:
        """Returns the line."""
        position, total = self.player.position, self.player.recording.seconds
        state = "paused" if self.player.paused else "playing"
        tail = f" {position:5.1f} / {total:.1f} s  ×{self.player.speed:g}"
        keys = "  space ←→ + -" if self.size.width > 70 else ""
        width = max(6, self.size.width - len(state) - len(tail) - len(keys) - 4)
        full, empty = meter(position / total if total else 1.0, width, self.plain)
        return Content.assemble(
            (f" {state} ", "bold $primary"),
            (full, "$primary"),
            (empty, "$surface-lighten-2"),
            tail,
            (keys, "$foreground-muted"),
        )
