"""The keys."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

CHAT = (
    ("Enter", "send"),
    ("Ctrl+J", "new line"),
    ("Up, Down", "earlier messages"),
    ("Esc, Ctrl+C", "stop the answer"),
    ("Ctrl+R", "answer again"),
    ("Ctrl+L", "edit the last message"),
    ("Ctrl+Y", "copy the last answer"),
    ("Ctrl+T", "unfold thinking"),
    ("Ctrl+N", "new session"),
    ("Ctrl+S", "saved sessions"),
    ("Ctrl+O", "settings: sampling, routing, cap"),
    ("Ctrl+G", "map in or out"),
    ("Ctrl+P", "palette: everything, also: expert cache 37%"),
    ("Tab", "next part of the screen"),
    ("Ctrl+Q", "leave"),
)
REPLAY = (
    ("Space", "pause, go on"),
    ("Left, Right", "5 seconds back, on"),
    ("Home, End", "beginning, end"),
    ("+ and -", "faster, slower"),
    ("Ctrl+G", "map in or out"),
    ("Ctrl+P", "palette"),
    ("Ctrl+Q", "leave"),
)
MAP = (
    ("arrows, h j k l", "point at an expert"),
    ("z", "zoom: tiles, half blocks, Braille, plain"),
    ("Esc", "back to the prompt"),
)


class HelpScreen(ModalScreen[None]):
    """Closed by Esc, Enter, Space, ? or q."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,space,q,f1,question_mark", "dismiss", "close")]

    def __init__(self, *, live: bool = True) -> None:
        super().__init__()
        self._live = live

    def compose(self) -> ComposeResult:
        """One list."""
        rows: list[Content | str | tuple[str, str]] = []
        for title, keys in (("chat" if self._live else "replay", CHAT if self._live else REPLAY), ("map", MAP)):
            rows.append((f"{title}\n", "bold $primary"))
            for key, text in keys:
                rows += [(f"  {key:<16}", "bold"), f" {text}\n"]
            rows.append("\n")
        rows.append(("Esc closes this.", "$foreground-muted"))
        with VerticalScroll(classes="dialog") as box:
            box.border_title = "keys"
            yield Static(Content.assemble(*rows))
