"""The system prompt, to be written or changed."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea


class SystemPromptScreen(ModalScreen[str | None]):
    """Ctrl+S keeps, Esc leaves things as they were."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "keep", "keep"),
        Binding("escape", "dismiss(None)", "close"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """One text."""
        with Vertical(classes="dialog") as box:
            box.border_title = "system prompt"
            yield TextArea(self._text, id="system", tab_behavior="focus", compact=True)
            yield Static(
                Content.styled("Ctrl+S keeps it, for the next answer on; Esc closes this", "$foreground-muted")
            )

    def action_keep(self) -> None:
        """Hands the text over."""
        self.dismiss(self.query_one(TextArea).text.strip())
