"""Two routings on one prompt side by side, token by token, the first that differs marked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from moe_mlx.system.terminal import harmless
from moe_mlx_tui.engine.snapshot import Column, Compared
from moe_mlx_tui.widgets.answer_view import receipt_line


def told(column: Column, parted: int | None) -> Content:
    """Returns an answer's text; the token that differs stands out, and what follows it is another colour."""
    pieces = [harmless(piece) for piece in column.pieces]
    if parted is None:
        return Content("".join(pieces))
    there = "".join(pieces[parted : parted + 1])
    return Content.assemble(
        "".join(pieces[:parted]),
        (f"▸{there or '(ends here)'}", "bold reverse $warning"),
        ("".join(pieces[parted + 1 :]), "$accent"),
    )


def verdict(shown: Compared) -> Content:
    """Returns where the two part, in words."""
    counts = [len(column.pieces) for column in shown.columns]
    if shown.error:
        return Content.styled(shown.error, "$error")
    if not shown.columns or not all(counts):
        waiting = "stopped" if shown.over else "one after the other; both begin with an empty expert cache"
        return Content.styled(waiting, "$foreground-muted")
    if shown.parted is not None:
        return Content.styled(f"they part at token {shown.parted + 1}", "bold $warning")
    alike = min(counts)
    return Content.styled(f"the same {alike} tokens" + ("" if shown.over else " so far"), "bold $success")


class CompareScreen(ModalScreen[None]):
    """Esc stops what is under way, and closes once nothing is."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "stop or close"),
        Binding("tab", "app.focus_next", "other side", show=False),
    ]

    def __init__(self, turn: str, stop: Callable[[], None]) -> None:
        super().__init__()
        self.turn, self._stop = turn, stop
        self._shown: Compared | None = None
        # Held here, not asked for: news may come before the screen is built, and while it is taken apart.
        self._sides = [VerticalScroll(id=f"side{number}", classes="half") for number in (0, 1)]
        self._texts = [Static(id=f"text{number}") for number in (0, 1)]
        self._receipts = [Static(id=f"receipt{number}", classes="receipt") for number in (0, 1)]
        self._verdict = Static(id="verdict")

    def compose(self) -> ComposeResult:
        """Two columns, a line below."""
        with Vertical(classes="dialog compare") as box:
            box.border_title = "two routings, one prompt"
            with Horizontal(id="sides"):
                for side, text, receipt in zip(self._sides, self._texts, self._receipts, strict=True):
                    with side:
                        yield text
                        yield receipt
            yield self._verdict
            yield Static(Content.styled("Esc stops, then closes.", "$foreground-muted"))

    def on_mount(self) -> None:
        """Shows what there is already."""
        app: Any = self.app
        if app.shown is not None:
            self.show(app.shown.compared)

    def show(self, shown: Compared | None) -> None:
        """Takes in how far it is."""
        if shown is None or shown.turn != self.turn or shown is self._shown or not self.is_mounted:
            return
        self._shown = shown
        for number, column in enumerate(shown.columns):
            self._sides[number].border_title = Content(column.routing)
            self._texts[number].update(told(column, shown.parted))
            if column.receipt is not None:
                self._receipts[number].update(receipt_line(column.receipt))
        self._verdict.update(verdict(shown))

    def action_leave(self) -> None:
        """Stops, or closes."""
        if self._shown is not None and self._shown.over:
            self.dismiss()
        else:
            self._stop()
