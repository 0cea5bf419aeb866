"""Saved sessions: searched, gone on with, renamed, deleted and brought back, exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.style import Style
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from moe_mlx.system.terminal import harmless
from moe_mlx_tui.saved.conversation import Conversation
from moe_mlx_tui.saved.sessions import Sessions, matching_line

#: What the last line offers: words, action. They are clicked too.
HINTS = (
    ("Enter goes on", "resume"),
    ("Ctrl+R renames", "rename"),
    ("Ctrl+D deletes", "delete"),
    ("Ctrl+B brings back", "undo"),
    ("Ctrl+X exports", "export"),
    ("Esc closes", "leave"),
)


class SessionsScreen(ModalScreen[Conversation | None]):
    """What is typed searches titles and messages; keys act on the line under the cursor.

    Args:
        sessions: The folder.
        current: The conversation that is open; it may be renamed and not deleted.
        export: Writes a session as Markdown and says where.
        caches: What is to be said of prompt caches on disk.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "close", priority=True),
        Binding("down", "move('cursor_down')", "down", priority=True),
        Binding("up", "move('cursor_up')", "up", priority=True),
        Binding("pagedown", "move('page_down')", "page down", priority=True),
        Binding("pageup", "move('page_up')", "page up", priority=True),
        Binding("ctrl+r", "rename", "rename", priority=True),
        Binding("ctrl+d", "delete", "delete", priority=True),
        Binding("ctrl+b", "undo", "bring back", priority=True),
        Binding("ctrl+x", "export", "export", priority=True),
    ]

    def __init__(
        self,
        sessions: Sessions,
        current: Conversation,
        export: Callable[[Conversation], None],
        caches: str = "",
    ) -> None:
        super().__init__()
        self.sessions, self._current, self._export, self._caches = sessions, current, export, caches
        self.found: list[Conversation] = []
        self._bad = 0
        self._shown: list[Conversation] = []
        self._removed: list[tuple[str, bytes]] = []
        self._renaming: Conversation | None = None

    def compose(self) -> ComposeResult:
        """Search field, list, a field for a title, hints."""
        with Vertical(classes="dialog sessions") as box:
            box.border_title = "sessions"
            box.border_subtitle = Content(self._caches)
            yield Input(placeholder="search titles and messages", id="wanted", compact=True)
            yield OptionList(id="list")
            yield Static("", id="detail")
            yield Input(placeholder="a title; empty goes back to the first line", id="title", compact=True)
            parts: list[Content | str] = []
            for words, action in HINTS:
                parts += [" · " if parts else "", Content.styled(words, _clicked(action))]
            yield Static(Content.assemble(*parts).stylize_before("$foreground-muted"), classes="keys")

    def on_mount(self) -> None:
        """Reads the sessions, in a thread: there may be many."""
        self.query_one("#title", Input).display = False
        self.query_one("#wanted", Input).focus()
        self.query_one("#detail", Static).update("looking ...")
        self.run_worker(self._look, thread=True, exit_on_error=False)

    def _look(self) -> None:
        found, bad = self.sessions.all()
        self.app.call_from_thread(self._take, found, bad)

    def _take(self, found: list[Conversation], bad: int) -> None:
        if self.is_attached:
            self.found, self._bad = found, bad
            self._list()

    @on(Input.Changed, "#wanted")
    def _list(self, _: object = None, keep: str = "") -> None:
        """Lists what is searched for, the cursor on session `keep`."""
        words = self.query_one("#wanted", Input).value
        lines = [(talk, line) for talk in self.found if (line := matching_line(talk, words)) is not None]
        self._shown = [talk for talk, _ in lines]
        box = self.query_one("#list", OptionList)
        box.clear_options()
        box.add_options(Option(self._line(talk, line)) for talk, line in lines)
        if lines:
            box.highlighted = next((n for n, talk in enumerate(self._shown) if talk.ident == keep), 0)
        none = "no session holds these words" if words else "no session is saved yet: each is, after its first answer"
        left = f"{self._bad} file{'s' if self._bad > 1 else ''} there can not be read as sessions" if self._bad else ""
        self.query_one("#detail", Static).update(Content(left if lines else none))

    def _line(self, talk: Conversation, line: str) -> Content:
        day = f"{talk.ident[:4]}-{talk.ident[4:6]}-{talk.ident[6:8]} {talk.ident[9:11]}:{talk.ident[11:13]}"
        count = len(talk.messages)
        about = f"{day}  {harmless(talk.model)}  {count} message{'' if count == 1 else 's'}"
        here = ("  open", "$success") if talk.ident == self._current.ident else ""
        found = ("\n  " + harmless(line)[:200], "$foreground-muted") if line else ""
        return Content.assemble((harmless(talk.title), "bold"), here, "\n", (about, "$foreground-muted"), found)

    @property
    def _picked(self) -> Conversation | None:
        at = self.query_one("#list", OptionList).highlighted
        return None if at is None or at >= len(self._shown) else self._shown[at]

    def action_move(self, how: str) -> None:
        """Moves the cursor in the list, wherever the focus is."""
        getattr(self.query_one("#list", OptionList), f"action_{how}")()

    @on(Input.Submitted, "#wanted")
    @on(OptionList.OptionSelected)
    def action_resume(self) -> None:
        """Goes on with the session under the cursor."""
        if (talk := self._picked) is not None:
            self.dismiss(self._current if talk.ident == self._current.ident else talk)

    def action_leave(self) -> None:
        """Leaves a renaming; with none closes."""
        if self._renaming is None:
            self.dismiss(None)
        else:
            self._end_renaming()

    def action_rename(self) -> None:
        """Asks for another title."""
        if (talk := self._picked) is not None and self._renaming is None:
            self._renaming = talk
            field = self.query_one("#title", Input)
            field.display, field.value = True, talk.title
            field.focus()

    @on(Input.Submitted, "#title")
    def _renamed(self, event: Input.Submitted) -> None:
        if (talk := self._renaming) is None:
            return
        before, talk.name = talk.name, " ".join(event.value.split())
        try:
            self.sessions.save(talk)
        except OSError as error:
            talk.name = before
            self._say(f"not renamed: {error.strerror}")
            return
        if talk.ident == self._current.ident:
            self._current.name = talk.name
        self._end_renaming()
        self._list(keep=talk.ident)

    def _end_renaming(self) -> None:
        self._renaming = None
        self.query_one("#title", Input).display = False
        self.query_one("#wanted", Input).focus()

    def action_delete(self) -> None:
        """Deletes the session under the cursor; while the list is open it can be brought back."""
        talk = self._picked
        if talk is None or self._renaming is not None:
            return
        if talk.ident == self._current.ident:
            self._say("this session is open: Ctrl+N begins another one, then it can be deleted")
            return
        at = self._shown.index(talk)
        try:
            self._removed.append((talk.ident, self.sessions.remove(talk.ident)))
        except OSError as error:
            self._say(f"not deleted: {error.strerror}")
            return
        self.found.remove(talk)
        following = self._shown[at + 1] if at + 1 < len(self._shown) else self._shown[at - 1]
        self._list(keep=following.ident)
        self._say(f"deleted: {talk.title}. Ctrl+B brings it back, until this list is closed")

    def action_undo(self) -> None:
        """Brings the session back that was deleted last."""
        if not self._removed:
            self._say("nothing was deleted since this list was opened")
            return
        ident, data = self._removed[-1]
        try:
            self.sessions.restore(ident, data)
        except OSError as error:
            self._say(f"not brought back: {error.strerror}")
            return
        self._removed.pop()
        self.found, self._bad = self.sessions.all()
        self._list(keep=ident)

    def action_export(self) -> None:
        """Writes the session under the cursor as Markdown."""
        if (talk := self._picked) is not None:
            self._export(talk)

    def _say(self, text: str) -> None:
        self.query_one("#detail", Static).update(Content(harmless(text)))


def _clicked(action: str) -> Style:
    return Style.from_meta({"@click": f"screen.{action}"})
