"""The conversation as it scrolls: messages, answers, remarks."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.style import Style
from textual.widget import Widget
from textual.widgets import Static

from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.terminal import harmless
from moe_mlx_tui.drawing.thumbnail import Thumbnail, thumbnail
from moe_mlx_tui.entry.files import split_files
from moe_mlx_tui.sturdy import Sturdy
from moe_mlx_tui.widgets.answer_view import AnswerView, version_mark
from moe_mlx_tui.widgets.welcome import Welcome

PICKED = "-picked"
_FOLD = Style(foreground=None, bold=True) + Style.from_meta({"@click": "unfold"})


class Message(Static):
    """What the user said, as it was typed, and its pictures small where the terminal can show them.

    Attributes:
        place: Its number in the conversation; None once it is no part of it.
    """

    def __init__(self, text: str) -> None:
        super().__init__(classes="message")
        self.text = text
        self.place: int | None = None
        self._open, self._version = False, (1, 1)
        self._shown: dict[str, Thumbnail] = {}
        self.mark(1, 1)

    def on_mount(self) -> None:
        """Has pictures read that are files of this machine, away from the screen's thread."""
        if any(file.digest for file in split_files(self.text)[1]) and getattr(self.app, "attaches", False):
            self.run_worker(self._look, thread=True, exit_on_error=False)

    def _look(self) -> None:
        for file in split_files(self.text)[1]:
            if file.digest and (small := thumbnail(file.text, file.digest)) is not None:
                self._shown[file.digest] = small
        if self._shown and self.is_attached:
            self.app.call_from_thread(self.mark, *self._version)

    def mark(self, number: int, count: int) -> None:
        """Says which of its versions this is."""
        self._version = number, count
        which = version_mark(self.place, number, count)
        words, files = split_files(self.text)
        parts: list[Content | str | tuple[str, str]] = [("you", "bold $secondary"), which, "\n", harmless(words)]
        for file in files:
            small = self._shown.get(file.digest)
            size = show_bytes(len(file.text.encode()))
            if file.digest:
                size = "picture" if small is None else f"picture, {small.size[0]} x {small.size[1]}"
            parts.append(Content.styled(f"\n+ {harmless(file.name)}  {size}", _FOLD))
            if small is not None and getattr(self.app, "draws_pictures", False):
                parts += ["\n", small.drawn]
            if self._open:
                parts.append((f"\n{harmless(file.text)}", "$foreground-muted"))
        self.update(Content.assemble(*parts))

    def action_unfold(self) -> None:
        """Shows the text of what is attached, or hides it."""
        self._open = not self._open
        self.mark(*self._version)


class Transcript(Sturdy, VerticalScroll, can_focus=True):
    """Keeps to its end until the reader scrolls up. With the focus on it, one turn is picked."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "pick(-1)", "turn before", show=False),
        Binding("down,j", "pick(1)", "next turn", show=False),
        Binding("left,h", "app.browse(-1)", "version before", show=False),
        Binding("right,l", "app.browse(1)", "next version", show=False),
        Binding("r", "app.regenerate", "answer again", show=False),
        Binding("e", "app.edit_last", "edit", show=False),
        Binding("y,c", "app.copy_answer", "copy", show=False),
    ]

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
        kept_there = self.is_anchored and not self._anchor_released  # in the midst of a layout it may not be there yet
        if self.is_vertical_scroll_end or kept_there:
            return
        for child in self.children:
            region = child.virtual_region
            if region.height and region.bottom > self.scroll_y:
                self._top = (child, (self.scroll_y - region.y) / region.height)
                return

    def on_resize(self, event: events.Resize) -> None:
        """Lines break elsewhere at another width: what stood at the top stays there, or the end stays the end.

        A conversation that was never long enough to scroll may be so in less room: its end is kept in view then too.
        """
        self.call_after_refresh(self._settle)
        if self.outer_size.width != self._width:
            self._width = self.outer_size.width
            self.call_after_refresh(self._return, self._top)

    def _settle(self) -> None:
        """Keeps to the end where there is something to scroll; a conversation that fits stands at the top."""
        if self.is_anchored and self.max_scroll_y == 0:
            self.anchor(False)
            self._to_stick = True
            self.scroll_to(y=0, animate=False, immediate=True)
        self.stick()

    def _return(self, top: tuple[Widget, float] | None) -> None:
        if top is not None and top[0].parent is self:
            region = top[0].virtual_region
            self.scroll_to(y=round(region.y + top[1] * region.height), animate=False, immediate=True)
        elif self.is_anchored:
            self.scroll_end(animate=False, immediate=True)
        self._remember()

    @property
    def turns(self) -> list[Message | AnswerView]:
        """Messages and answers, in order."""
        return [child for child in self.children if isinstance(child, Message | AnswerView)]

    @property
    def placed(self) -> list[Message | AnswerView]:
        """Those that are part of the conversation: what failed is shown and no part of it."""
        return [turn for turn in self.turns if turn.place is not None]

    @property
    def picked_place(self) -> int | None:
        """The number of the picked turn."""
        return next((turn.place for turn in self.placed if turn.has_class(PICKED)), None)

    def pick(self, place: int) -> None:
        """Picks a turn and brings it into view."""
        self.unpick()
        placed = self.placed
        if placed:
            turn = placed[max(0, min(place, len(placed) - 1))]
            turn.add_class(PICKED)
            self.scroll_to_widget(turn, animate=False)

    def unpick(self) -> None:
        """Picks none."""
        for turn in self.turns:
            turn.remove_class(PICKED)

    def action_pick(self, step: int) -> None:
        """Picks the next turn, or scrolls within one that is larger than the view."""
        place = self.picked_place
        if place is None:
            self.pick(len(self.placed))
            return
        region, top = self.placed[place].virtual_region, self.scroll_y
        if (step < 0 and region.y < top) or (step > 0 and region.bottom > top + self.size.height):
            self.scroll_relative(y=step, animate=False)
        else:
            self.pick(place + step)

    def on_focus(self) -> None:
        """Picks the last turn, unless one is picked."""
        if self.picked_place is None:
            self.action_pick(0)

    def on_blur(self) -> None:
        """Picks none once the focus has gone elsewhere on this screen; a dialog over it is not elsewhere."""
        self.call_later(lambda: self.unpick() if self.screen.is_current and not self.has_focus else None)

    def on_click(self, event: events.Click) -> None:
        """Picks the turn under the mouse."""
        for node in event.widget.ancestors_with_self if event.widget is not None else ():
            if isinstance(node, Message | AnswerView) and node.place is not None:
                self.pick(node.place)

    @property
    def last_answer(self) -> AnswerView | None:
        """The latest answer."""
        answers = [child for child in self.children if isinstance(child, AnswerView)]
        return answers[-1] if answers else None

    async def say(self, text: str) -> None:
        """Adds a message of the user's."""
        await self.query(Welcome).remove()
        message = Message(text)
        message.place = len(self.placed)
        await self.mount(message)
        self._to_stick = True
        self.stick()

    async def answer(self, name: str) -> AnswerView:
        """Adds an empty answer."""
        view = AnswerView(name)
        view.place = len(self.placed)
        await self.mount(view)
        self.stick()
        return view

    async def remark(self, text: str) -> None:
        """Adds a line of the engine's."""
        await self.mount(Static(Content.assemble(("· ", "$accent"), text), classes="remark"))

    async def cut(self, count: int) -> None:
        """Takes away everything from turn number `count` on."""
        placed = self.placed
        if count >= len(placed):
            return
        children = list(self.children)
        for child in children[children.index(placed[count]) :]:
            await child.remove()
