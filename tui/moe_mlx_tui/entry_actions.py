"""Around the prompt: commands and their menu, files that go along, the user's editor, searching, copying."""

from __future__ import annotations

from typing import ClassVar

from textual.app import SuspendNotSupported
from textual.binding import Binding, BindingType

from moe_mlx.errors import MoeMlxError, UsageError
from moe_mlx.system.terminal import harmless
from moe_mlx_tui.entry.commands import command_of
from moe_mlx_tui.entry.completion import Completion, completion
from moe_mlx_tui.entry.editor import edited
from moe_mlx_tui.entry.files import quoted, split_files, with_files
from moe_mlx_tui.model_actions import ModelActions
from moe_mlx_tui.saved.conversation import Conversation
from moe_mlx_tui.screens.copying import CopyScreen, pieces
from moe_mlx_tui.widgets.completion_menu import CompletionMenu
from moe_mlx_tui.widgets.finder import Finder
from moe_mlx_tui.widgets.prompt import Prompt
from moe_mlx_tui.widgets.samples import Samples


class EntryActions(ModelActions):
    """What has to do with what is typed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+f,f3", "search", "search", show=False),
        Binding("f5", "editor", "editor", show=False),
        Binding("f6", "pick_copy", "copy", show=False),
    ]
    ENTRY_ACTIONS: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("search", "Ctrl+F or /search: the conversation; Up and Down go on", "search"),
        ("write in your editor", "F5 or /editor: the prompt in $VISUAL or $EDITOR", "editor"),
        ("copy a message or code", "F6 or /copy: any message or code block", "pick_copy"),
    )
    #: Whether `@file` attaches files: they are those of the machine that the app runs on.
    attaches = True

    prompt: Prompt
    menu: CompletionMenu
    finder: Finder
    talk: Conversation
    _sent_as_words = ""

    @property
    def draws_pictures(self) -> bool:
        """Whether the terminal has the colours for small pictures, and may be given half blocks."""
        return not self.plain and not self.no_color and self.console.color_system in ("256", "truecolor")

    @property
    def thinking_tags(self) -> tuple[str, str]:
        """The tags around thinking, of the model that runs."""
        facts = self.shown.model if self.shown else None
        return facts.thinking if facts else ("<think>", "</think>")

    def completions(self) -> Completion | None:
        """Returns what the word at the cursor may become."""
        row, column = self.prompt.cursor_location
        lines = self.prompt.text.split("\n")
        explain = {action: f"{name}: {text}" for name, text, action in self.ACTIONS}
        whole = self.prompt.text if len(lines) == 1 else "\n"
        return completion(lines[row][:column], whole, explain, lambda: self.attaches)

    def on_completion_menu_picked(self, event: CompletionMenu.Picked) -> None:
        """Takes the line that was clicked."""
        self.prompt.complete(event.choice)
        self.prompt.focus()

    async def took_command(self, text: str) -> bool:
        """Whether a line was a command, and has been seen to."""
        try:
            found = command_of(text)
        except LookupError as error:
            self.notify(str(error), severity="warning", markup=False)
            return True
        if found is None:
            return False
        command, rest = found
        self.prompt.clear()
        await self.run_action(f"{command.action}({rest!r})" if rest else command.action)
        return True

    def attached(self, words: str) -> str | None:
        """Returns a message with the files it names; None where something about them is to be mended first."""
        if any(file.digest for file in split_files(words)[1]):  # it would be read, from wherever it says
            self.notify(
                "not sent: it holds the mark of a picture (<picture ...>); take that out and name the file after @",
                severity="error",
                markup=False,
            )
            return None
        if not self.attaches:
            return words
        try:
            content, missing = with_files(words)
        except UsageError as error:
            self.notify(f"not sent: {error}", severity="error", markup=False)
            return None
        if missing and self._sent_as_words != words:
            self._sent_as_words = words
            names = ", ".join(f"@{harmless(name)}" for name in missing)
            self.notify(
                f"There is no file {names}. Enter once more sends it as words.", severity="warning", markup=False
            )
            return None
        self._sent_as_words = ""
        return content

    def action_image(self, path: str) -> None:
        """Names a picture in the prompt; it goes along with the message."""
        if not self.attaches:
            self.notify("A browser sends no files: pictures go along in the terminal.", severity="warning")
            return
        self.prompt.put(f"@{quoted(path)} ")

    def action_editor(self) -> None:
        """Opens the prompt in the user's editor."""
        try:
            with self.suspend():
                text = edited(self.prompt.text)
        except SuspendNotSupported:
            said = "An editor needs a terminal of its own, which this view has not."
            self.notify(said, severity="warning", timeout=4)
        except MoeMlxError as error:
            self.notify(str(error), severity="error", markup=False)
        else:
            self.prompt.put(text)
            self.prompt.focus()

    def action_search(self, words: str = "") -> None:
        """Searches the conversation."""
        if len(self.screen_stack) == 1:
            self.finder.open(words)

    def on_finder_closed(self) -> None:
        """Goes back to the prompt."""
        self.focus_entry()

    def action_pick_copy(self) -> None:
        """Lists what can be copied."""
        found = pieces(self.talk.messages, self.thinking_tags)
        if not found:
            self.notify("Nothing was said yet.", severity="warning", timeout=3)
            return
        self.push_screen(CopyScreen(found), self._copy)

    def _copy(self, text: str | None) -> None:
        if text is not None:
            self.copy_to_clipboard(text)
            self.notify("Copied.", timeout=2)

    def on_samples_taken(self, event: Samples.Taken) -> None:
        """Puts a sample into the prompt."""
        self.prompt.put(event.text)
        self.prompt.focus()
