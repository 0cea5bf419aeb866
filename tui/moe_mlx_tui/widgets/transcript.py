"""The conversation as it scrolls: messages, answers, remarks."""

from __future__ import annotations

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from moe_mlx.system.terminal import harmless
from moe_mlx_tui.widgets.answer_view import AnswerView
from moe_mlx_tui.widgets.welcome import Welcome


class Message(Static):
    """What the user said, as it was typed."""

    def __init__(self, text: str) -> None:
        super().__init__(Content.assemble(("you\n", "bold $secondary"), harmless(text)), classes="message")
        self.text = text


class Transcript(VerticalScroll, can_focus=True):
    """Keeps to its end until the reader scrolls up."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._to_stick = False

    def stick(self) -> None:
        """Keeps to the end from now on, once there is something to scroll."""
        if self._to_stick and self.max_scroll_y > 0:
            self._to_stick = False
            self.anchor()

    @property
    def turns(self) -> list[Widget]:
        """Messages and answers, in order."""
        return [child for child in self.children if isinstance(child, Message | AnswerView)]

    @property
    def last_answer(self) -> AnswerView | None:
        """The latest answer."""
        answers = [child for child in self.children if isinstance(child, AnswerView)]
        return answers[-1] if answers else None

    async def say(self, text: str) -> None:
        """Adds a message of the user's."""
        await self.query(Welcome).remove()
        await self.mount(Message(text))
        self._to_stick = True
        self.stick()

    async def answer(self, name: str) -> AnswerView:
        """Adds an empty answer."""
        view = AnswerView(name)
        await self.mount(view)
        self.stick()
        return view

    async def remark(self, text: str) -> None:
        """Adds a line of the engine's."""
        await self.mount(Static(Content.assemble(("· ", "$accent"), text), classes="remark"))

    async def cut(self, count: int) -> None:
        """Takes away everything from turn number `count` on."""
        turns = self.turns
        if count >= len(turns):
            return
        children = list(self.children)
        for child in children[children.index(turns[count]) :]:
            await child.remove()
