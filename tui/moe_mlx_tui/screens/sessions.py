"""Saved sessions, to be picked up again."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from moe_mlx.errors import MoeMlxError
from moe_mlx.system.terminal import harmless
from moe_mlx_tui.saved.conversation import Conversation, Sessions, load

SHOWN = 50


class SessionsScreen(ModalScreen[Conversation | None]):
    """Enter opens, Esc leaves."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "close")]

    def __init__(self, sessions: Sessions) -> None:
        super().__init__()
        self.found: list[tuple[Path, Conversation]] = []
        for path in sessions.paths()[:SHOWN]:
            try:
                self.found.append((path, load(path)))
            except MoeMlxError:
                continue

    def compose(self) -> ComposeResult:
        """A list of titles."""
        with Vertical(classes="dialog") as box:
            box.border_title = "sessions"
            if not self.found:
                yield Static("No session has been saved yet: each is kept after its first answer. Esc closes this.")
                return
            yield OptionList(*(Option(self._line(talk), id=str(n)) for n, (_, talk) in enumerate(self.found)))
            yield Static(Content.styled("Enter goes on with one, Esc closes this", "$foreground-muted"))

    @staticmethod
    def _line(talk: Conversation) -> Content:
        day = f"{talk.ident[:4]}-{talk.ident[4:6]}-{talk.ident[6:8]} {talk.ident[9:11]}:{talk.ident[11:13]}"
        return Content.assemble(
            harmless(talk.title),
            "\n",
            (f"{harmless(day)}  {harmless(talk.model)}  {len(talk.messages)} messages", "$foreground-muted"),
        )

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Hands the session over."""
        self.dismiss(self.found[int(event.option.id or 0)][1])
