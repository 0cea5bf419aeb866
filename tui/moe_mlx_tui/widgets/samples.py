"""Three things to ask, for a conversation in which nothing was said."""

from __future__ import annotations

from collections.abc import Sequence

from textual.message import Message
from textual.widgets import OptionList

#: The demo knows a small world; any other model is taken for an assistant.
OF_DEMO = (
    "Tell me a story about a cat and a lantern.",
    "What is 27 + 48?",
    "Sort these words: pear, apple, fig, cherry",
)
OF_OTHERS = (
    "Explain in four sentences how a mixture of experts works.",
    "Write a Python function that merges overlapping intervals, with a test.",
    "Plan three quick dinners for a week, with one shopping list.",
)


class Samples(OptionList):
    """Tab reaches it from the prompt, Enter or a click takes one."""

    class Taken(Message):
        """One was chosen."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(classes="samples")
        self._texts: tuple[str, ...] = ()

    def offer(self, texts: Sequence[str]) -> None:
        """Shows these."""
        if tuple(texts) != self._texts:
            self._texts = tuple(texts)
            self.clear_options()
            self.add_options(texts)
            self.display = bool(texts)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Hands the text over."""
        event.stop()
        self.post_message(self.Taken(self._texts[event.option_index]))
