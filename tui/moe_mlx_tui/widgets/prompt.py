"""The prompt: several lines, Enter sends, Ctrl+J breaks the line, history on up and down."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widgets import TextArea

from moe_mlx.system.terminal import harmless
from moe_mlx_tui.entry.completion import Choice, Completion
from moe_mlx_tui.saved.prompt_history import PromptHistory
from moe_mlx_tui.sturdy import Sturdy
from moe_mlx_tui.widgets.completion_menu import CompletionMenu

LONG_HINT, SHORT_HINT = "Enter sends, Ctrl+J breaks the line, / commands, ? keys", "Enter sends, / commands, ? keys"


class Prompt(Sturdy, TextArea):
    """What the user is about to say."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "send", show=False),
        Binding("ctrl+j,shift+enter", "newline", "new line", show=False),
        Binding("ctrl+y", "app.copy_answer", "copy the answer", show=False),
        Binding("ctrl+underscore", "undo", "undo typing", show=False),  # Ctrl+Z suspends
        Binding("ctrl+f", "app.search", "search", show=False),
        Binding("f6", "app.pick_copy", "copy", show=False),
        Binding("ctrl+d", "quit_if_empty", "leave", show=False),
    ]

    class Sent(Message):
        """Enter was pressed on a text."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class HelpWanted(Message):
        """A question mark was typed into the empty prompt."""

    def __init__(self, history: PromptHistory, menu: CompletionMenu, *, id: str | None = None) -> None:
        super().__init__(
            id=id,
            soft_wrap=True,
            show_line_numbers=False,
            tab_behavior="focus",
            highlight_cursor_line=False,
            placeholder=LONG_HINT,
            compact=True,
        )
        self.earlier, self.menu = history, menu
        #: What the word at the cursor may become; whoever owns the prompt knows.
        self.look: Callable[[], Completion | None] = lambda: None
        self._draft = self._set_aside = ""

    def on_resize(self, event: events.Resize) -> None:
        """Says as much as there is room for."""
        self.placeholder = LONG_HINT if self.content_size.width >= len(LONG_HINT) else SHORT_HINT

    async def _on_key(self, event: events.Key) -> None:
        if self.menu.display and event.key in ("tab", "enter"):
            self.offer()  # keys may come faster than the text's own news of its change
        if self.menu.display and self._choosing(event.key):
            event.prevent_default().stop()
            return
        if event.character == "?" and not self.text:
            event.prevent_default().stop()
            self.post_message(self.HelpWanted())
            return
        if event.key in ("enter", "shift+enter", "ctrl+j"):  # bindings act on these; the text area must not
            event.prevent_default()
            return
        await super()._on_key(event)

    def _choosing(self, key: str) -> bool:
        """Whether a key was the menu's."""
        choice = self.menu.choice
        if key in ("up", "down"):
            getattr(self.menu, f"action_cursor_{key}")()
        elif key == "escape":
            self.menu.offer(None)
        elif key in ("tab", "enter") and choice is not None:
            if key == "enter" and not choice.whole and self._written(choice):
                return False
            self.complete(choice)
            if key == "enter" and choice.whole:
                self.menu.offer(None)
                self.action_send()
        else:
            return False
        return True

    def _written(self, choice: Choice) -> bool:
        """Whether a choice is what stands there already."""
        row, column = self.cursor_location
        return (
            self.menu.found is not None and self.document.get_line(row)[self.menu.found.start : column] == choice.text
        )

    def complete(self, choice: Choice) -> None:
        """Puts a choice in place of the word at the cursor."""
        if self.menu.found is None:
            return
        row, column = self.cursor_location
        behind = "" if choice.goes_on or (choice.whole and not choice.takes) else " "
        self.replace(choice.text + behind, (row, self.menu.found.start), (row, column))
        if not choice.goes_on:
            self.menu.offer(None)

    def offer(self) -> None:
        """Shows what there is to choose now."""
        self.menu.offer(self.look())

    def on_text_area_changed(self) -> None:
        """Offers what the word at the cursor may become."""
        self.offer()

    def render_line(self, y: int) -> Strip:
        """Draws nothing where there is no room: between two sizes of the terminal a widget may have none."""
        return super().render_line(y) if self.content_size.width > 0 else Strip.blank(self.size.width)

    def action_send(self) -> None:
        """Hands the text over; it is cleared by whoever takes it."""
        if self.text.strip():
            self.post_message(self.Sent(self.text.strip("\n")))

    def action_newline(self) -> None:
        """Breaks the line."""
        self.insert("\n")

    def action_quit_if_empty(self) -> None:
        """Leaves if nothing is typed, else deletes to the right."""
        if not self.text:
            self.app.exit(0)
        else:
            self.action_delete_right()

    def take(self) -> None:
        """Notes the text in the history and empties the prompt."""
        self.earlier.add(self.text.strip("\n"))
        self.clear()
        self.leave_edit()

    async def _on_paste(self, event: events.Paste) -> None:
        # Terminals send a carriage return for each line's end of what is pasted.
        event.text = harmless("\n".join(event.text.splitlines()) if "\r" in event.text else event.text)

    def put(self, text: str) -> None:
        """Replaces the text, cursor at its end."""
        self.load_text(harmless(text))
        self.move_cursor(self.document.end)

    @property
    def editing(self) -> bool:
        """Whether a message that was sent before is being edited."""
        return bool(self.border_title)

    def begin_edit(self, text: str) -> None:
        """Takes a message that was sent before, to be sent as another version; what was being typed waits."""
        self._set_aside = self.text
        self.put(text)
        self.border_title = "editing: Enter sends another version, Esc leaves it as it was"

    def leave_edit(self) -> None:
        """Goes back to what was being typed."""
        if self.editing:
            self.border_title = ""
            self.put(self._set_aside)

    def action_cursor_up(self, select: bool = False) -> None:
        """Moves up; on the first line goes back in the history."""
        if select or self.cursor_location[0] > 0:
            super().action_cursor_up(select)
            return
        if self.earlier.at_end:
            self._draft = self.text
        older = self.earlier.older()
        if older is not None:
            self.put(older)

    def action_cursor_down(self, select: bool = False) -> None:
        """Moves down; on the last line comes forward in the history."""
        if select or self.cursor_location[0] < self.document.line_count - 1:
            super().action_cursor_down(select)
            return
        if not self.earlier.at_end:
            newer = self.earlier.newer()
            self.put(self._draft if newer is None else newer)
