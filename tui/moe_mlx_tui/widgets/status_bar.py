"""The bottom line: model, phase, speed, hit rate, cap, routing, and the keys that matter now."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from moe_mlx.conversation.context import NEAR
from moe_mlx_tui.engine.snapshot import CLOSED, DECODE, EMPTY, FAILED, IDLE, LOADING, PREFILL, Snapshot
from moe_mlx_tui.widgets.hint import hint

#: phase -> sign, colour; the phase itself is always written too.
_PHASES = {
    LOADING: ("◌", "$warning"),
    IDLE: ("○", "$foreground-muted"),
    PREFILL: ("◐", "$accent"),
    DECODE: ("●", "$success"),
    FAILED: ("✗", "$error"),
    CLOSED: ("·", "$foreground-muted"),
    EMPTY: ("·", "$foreground-muted"),
}


def _short(count: int) -> str:
    """Returns a count of tokens in four signs or so."""
    return str(count) if count < 1000 else f"{count / 1000:.1f}k" if count < 10_000 else f"{count // 1000}k"


class StatusBar(Widget):
    """What does not fit is left out from the right, keys last."""

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plain = plain
        self._line = Content("")
        self._snapshot, self._used = Snapshot(), 0

    def show(self, snapshot: Snapshot, context: int = 0) -> None:
        """Takes in a snapshot, and the tokens of the conversation that is shown."""
        self._snapshot, self._used = snapshot, context
        line = self._fit(snapshot)
        if not line.is_same(self._line):
            self._line = line
            self.refresh()

    def on_resize(self) -> None:
        """Fits the line to the width."""
        self._line = self._fit(self._snapshot)
        self.refresh()

    def _fit(self, now: Snapshot) -> Content:
        mark, colour = _PHASES.get(now.phase, ("·", "$foreground-muted"))
        left = [Content.assemble((f" {'*' if self.plain else mark} ", colour), (now.phase, colour))]
        if now.model is not None:
            speed = now.tps if now.phase == DECODE else (now.receipt.tps if now.receipt else 0.0)
            left.append(Content.styled(now.model.name, "bold"))
            left.append(Content(f"{speed:.1f} t/s"))
            left.append(Content(f"hit {now.answer.hit_rate:.0%}"))
            if self._used:
                left.append(self._meter(now.model.context))
            left.append(Content(f"cap {now.cap_share:.0%}"))
            left.append(Content(now.routing))
            if now.drafts:
                left.append(Content(now.drafts))
        stop = [hint("Esc stop", "stop")] if now.busy and now.phase != LOADING else []
        keys = [*stop, hint("^P palette", "command_palette"), hint("^G map", "swap_map"), hint("? help", "help")]
        right, short = (Content.assemble(Content("  ").join(some), " ") for some in (keys, keys[:-2]))
        room = self.size.width
        for least in (5, 4) if self._used else (4,):  # the meter goes after the keys
            for tail in (right, short, Content("")):
                for count in range(len(left), least - 1, -1):
                    line = Content(" │ ").join(left[:count])
                    gap = room - line.cell_length - tail.cell_length
                    if gap >= 2:
                        return Content.assemble(line, " " * gap, tail)
        return Content(" │ ").join(left)

    def _meter(self, limit: int) -> Content:
        """Returns how much of the model's context is used."""
        share = self._used / limit if limit else 0.0
        colour = "$error" if share > 1 else "$warning" if share >= NEAR else "$foreground"
        of = f"/{_short(limit)}" if limit else ""
        return Content.styled(f"ctx {_short(self._used)}{of}", colour)

    def render(self) -> Content:
        """Returns the line."""
        return self._line
