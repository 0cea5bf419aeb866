"""The menu above the prompt: commands and files that what is typed may become. Never has the focus."""

from __future__ import annotations

from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from moe_mlx.system.terminal import harmless
from moe_mlx_tui.entry.completion import Choice, Completion


class CompletionMenu(OptionList, can_focus=False):
    """Shown while there is something to choose."""

    class Picked(Message):
        """A line was clicked."""

        def __init__(self, choice: Choice) -> None:
            super().__init__()
            self.choice = choice

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.found: Completion | None = None
        self.display = False

    def offer(self, found: Completion | None) -> None:
        """Shows what there is, or goes away."""
        if found == self.found:
            return
        self.found = found
        self.display = found is not None
        self.clear_options()
        if found is not None:
            width = max(len(choice.shown) for choice in found.choices)
            self.add_options(
                Option(Content.assemble(f"{harmless(choice.shown):<{width}}  ", (choice.what, "$foreground-muted")))
                for choice in found.choices
            )
            self.highlighted = 0

    @property
    def choice(self) -> Choice | None:
        """The line under the cursor."""
        if self.found is None or self.highlighted is None:
            return None
        return self.found.choices[self.highlighted]

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Takes a click for a choice."""
        event.stop()
        if self.found is not None:
            self.post_message(self.Picked(self.found.choices[event.option_index]))
