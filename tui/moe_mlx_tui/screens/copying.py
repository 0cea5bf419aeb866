"""What may be copied: every message and every code block, the latest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from moe_mlx.system.terminal import harmless
from moe_mlx_tui.drawing.fences import fences
from moe_mlx_tui.drawing.sections import spoken
from moe_mlx_tui.entry.files import split_files

YOU = "you"


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing to copy: what it is, how it begins, and its text."""

    what: str
    begins: str
    text: str
    inner: bool = False


def pieces(messages: Sequence[dict[str, str]], thinking: tuple[str, str]) -> list[Piece]:
    """Returns what can be copied of a conversation, the latest message first, each followed by its code blocks."""
    found: list[Piece] = []
    for place in range(len(messages) - 1, -1, -1):
        mine = messages[place]["role"] == "user"
        text = split_files(messages[place]["content"])[0] if mine else spoken(messages[place]["content"], thinking)
        found.append(Piece(YOU if mine else "answer", _first(text), text))
        for fence in fences(text):
            count = fence.code.count("\n") + 1
            what = f"{fence.language or 'code'}, {count} line{'s' if count > 1 else ''}"
            found.append(Piece(what, _first(fence.code), fence.code, True))
    return found


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:200]


class CopyScreen(ModalScreen[str | None]):
    """Enter copies, Esc closes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f6", "dismiss(None)", "close")]

    def __init__(self, found: Sequence[Piece]) -> None:
        super().__init__()
        self.found = list(found)

    def compose(self) -> ComposeResult:
        """A line a piece."""
        with Vertical(classes="dialog copying") as box:
            box.border_title = "copy"
            yield OptionList(*(Option(self._line(piece), id=str(n)) for n, piece in enumerate(self.found)))
            yield Static(Content.styled("Enter copies a message or a code block, Esc closes this", "$foreground-muted"))

    @staticmethod
    def _line(piece: Piece) -> Content:
        style = "$accent" if piece.inner else "bold $secondary" if piece.what == YOU else "bold $primary"
        return Content.assemble(
            "  " if piece.inner else "", (harmless(piece.what), style), "  ", harmless(piece.begins)
        )

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Hands the text over."""
        self.dismiss(self.found[event.option_index].text)
