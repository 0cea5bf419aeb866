"""The conversation as it scrolls: messages, answers, remarks."""

from __future__ import annotations

from textual import events
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
        self._width = 0
        #: What stands at the top, and how far into it the view begins, as a share of its height; None at the end.
        self._top: tuple[Widget, float] | None = None

    def stick(self) -> None:
        """Keeps to the end from now on, once there is something to scroll."""
        if self._to_stick and self.max_scroll_y > 0:
            self._to_stick = False
            self.anchor()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Remembers what stands at the top."""
        super().watch_scroll_y(old_value, new_value)
        if self.outer_size.width == self._width:
            self._remember()

    def _remember(self) -> None:
        self._top = None
        if self.is_vertical_scroll_end:
            return
        for child in self.children:
            region = child.virtual_region
            if region.height and region.bottom > self.scroll_y:
                self._top = (child, (self.scroll_y - region.y) / region.height)
                return

    def on_resize(self, event: events.Resize) -> None:
        """Lines break elsewhere at another width: what stood at the top stays there, or the end stays the end."""
        if self.outer_size.width != self._width:
            self._width = self.outer_size.width
            self.call_after_refresh(self._return, self._top)

    def _return(self, top: tuple[Widget, float] | None) -> None:
        if top is not None and top[0].parent is self:
            region = top[0].virtual_region
            self.scroll_to(y=round(region.y + top[1] * region.height), animate=False, immediate=True)
        self._remember()

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
