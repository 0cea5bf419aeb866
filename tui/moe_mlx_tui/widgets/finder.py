"""The line in which one searches the conversation. It looks anew at each step, for an answer may be growing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message as Event
from textual.widget import Widget
from textual.widgets import Collapsible, Input, Markdown, Static
from textual.widgets.markdown import MarkdownBlock

from moe_mlx_tui.sturdy import Sturdy
from moe_mlx_tui.widgets.transcript import Message, Transcript

FOUND = "-found"


class Finder(Sturdy, Horizontal):
    """Finds the messages and the blocks of answers that hold what is typed; shows one at a time."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,up,shift+f3", "step(-1)", "one before", show=False, priority=True),
        Binding("down,f3", "step(1)", "next", show=False, priority=True),
        Binding("escape", "leave", "close", show=False, priority=True),
    ]

    class Closed(Event):
        """The search is over."""

    def __init__(self, transcript: Transcript, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.transcript = transcript
        self.display = False
        self._at: Widget | None = None

    def compose(self) -> ComposeResult:
        """Field, and which of how many."""
        yield Static("search ", classes="name")
        yield Input(placeholder="words; Up and Down go on, Esc closes", id="sought", compact=True)
        yield Static("", id="which")

    @property
    def _field(self) -> Input:
        return self.query_one("#sought", Input)

    def open(self, words: str = "") -> None:
        """Begins to search, from the end of the conversation."""
        self.display = True
        self._field.value = words or self._field.value
        self._field.focus()
        self._changed()

    def action_leave(self) -> None:
        """Ends the search where it stands."""
        self._mark(None)
        self.display = False
        self.post_message(self.Closed())

    def _hits(self) -> list[Widget]:
        wanted = self._field.value.strip().casefold()
        return [part for part, text in self._parts() if wanted and wanted in text.casefold()]

    def _parts(self) -> Iterator[tuple[Widget, str]]:
        for turn in self.transcript.turns:
            if isinstance(turn, Message):
                yield turn, turn.text
                continue
            for body in turn.query(Markdown):
                for block in body.children:
                    if isinstance(block, MarkdownBlock):
                        yield block, block.source or ""

    @on(Input.Changed, "#sought")
    def _changed(self) -> None:
        """Shows the last place, or the one shown if it still holds what is typed."""
        hits = self._hits()
        self._show(hits, hits.index(self._at) if self._at in hits else len(hits) - 1)

    def action_step(self, step: int) -> None:
        """Goes to another place, round and round."""
        hits = self._hits()
        at = hits.index(self._at) + step if self._at in hits else len(hits) - 1
        self._show(hits, at % len(hits) if hits else 0)

    def _show(self, hits: list[Widget], at: int) -> None:
        which = self.query_one("#which", Static)
        if not hits:
            self._mark(None)
            which.update(" nothing" if self._field.value.strip() else "")
            return
        which.update(f" {at + 1}/{len(hits)}")
        self._mark(hits[at])

    def _mark(self, part: Widget | None) -> None:
        if self._at is not None:
            self._at.remove_class(FOUND)
        self._at = part
        if part is None:
            return
        part.add_class(FOUND)
        folds = [fold for fold in part.ancestors if isinstance(fold, Collapsible) and fold.collapsed]
        for fold in folds:
            fold.collapsed = False
        self.transcript.release_anchor()
        self.call_after_refresh(self.transcript.scroll_to_widget, part, animate=False, center=True)
