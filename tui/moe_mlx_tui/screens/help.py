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
    ("/", "menu of commands; Tab completes"),
    ("@file", "its text goes along; Tab completes"),
    ("F5", "write in $EDITOR"),
    ("Up, Down", "earlier messages"),
    ("Esc, Ctrl+C", "stop the answer"),
    ("Ctrl+R", "answer again: another version; the old one stays"),
    ("Ctrl+L", "edit the message: another version; Esc leaves it"),
    ("Ctrl+B", "undo the last edit, new answer or choice; /redo"),
    ("Ctrl+Y, F6", "copy the last answer; any message or code block"),
    ("Ctrl+F, F3", "search the conversation; Up and Down go on"),
    ("Ctrl+T", "unfold thinking"),
    ("Ctrl+N", "new session"),
    ("Ctrl+S", "sessions: search, resume, rename, delete, export"),
    ("F2, /model", "run another model, the conversation is kept"),
    ("Ctrl+O", "settings: cap, routing, sampling, system prompt"),
    ("Ctrl+G", "map in or out"),
    ("/compare", "two routings on the last message, side by side"),
    ("F4, /theatre", "map fills the screen, answer below; Esc returns"),
    ("Ctrl+P", "palette: everything, also: expert cache 37%"),
    ("Tab", "next part of the screen"),
    ("Ctrl+Z", "suspend; fg in the shell goes on"),
    ("Ctrl+_", "undo typing"),
    ("Ctrl+Q", "leave"),
)
TURNS = (
    ("Shift+Tab, click", "go to the conversation"),
    ("Up, Down", "pick a turn; Ctrl+R and Ctrl+L are for it then"),
    ("Left, Right", "versions of it (2/2), with what followed"),
    ("r, e, y", "answer again, edit, copy"),
)
REPLAY = (
    ("Space", "pause, go on"),
    ("Left, Right", "5 seconds back, on"),
    ("Home, End", "beginning, end"),
    ("+ and -", "faster, slower"),
    ("Ctrl+G", "map in or out"),
    ("F4", "map over the whole screen, the answer below"),
    ("Ctrl+P", "palette"),
    ("Ctrl+Q", "leave"),
)
MAP = (
    ("arrows, h j k l", "point at an expert"),
    ("z", "zoom: tiles, cells, half blocks, Braille, plain"),
    ("f", "fill the screen, and back"),
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
        chat = (("chat", CHAT), ("any turn", TURNS)) if self._live else (("replay", REPLAY),)
        for title, keys in (*chat, ("map", MAP)):
            rows.append((f"{title}\n", "bold $primary"))
            for key, text in keys:
                rows += [(f"  {key:<16}", "bold"), f" {text}\n"]
            rows.append("\n")
        rows.append(("Esc closes this.", "$foreground-muted"))
        with VerticalScroll(classes="dialog") as box:
            box.border_title = "keys"
            yield Static(Content.assemble(*rows))
