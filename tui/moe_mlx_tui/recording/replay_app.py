"""`moe-mlx replay`: a recording on the same screen, without a model."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget

from moe_mlx_tui.base_app import MoeApp
from moe_mlx_tui.engine.snapshot import Snapshot
from moe_mlx_tui.recording.player import Player
from moe_mlx_tui.saved.prompt_history import PromptHistory
from moe_mlx_tui.widgets.answer_view import AnswerView
from moe_mlx_tui.widgets.completion_menu import CompletionMenu
from moe_mlx_tui.widgets.prompt import Prompt
from moe_mlx_tui.widgets.transport import Transport

STEP = 5.0


class ReplayApp(MoeApp):
    """Plays a recording."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "pause", show=False),
        Binding("left", "seek(-5)", "back", show=False),
        Binding("right", "seek(5)", "on", show=False),
        Binding("home", "seek(-1e9)", "beginning", show=False),
        Binding("end", "seek(1e9)", "end", show=False),
        Binding("plus,equals_sign", "speed(1)", "faster", show=False),
        Binding("minus", "speed(-1)", "slower", show=False),
        Binding("escape", "blur", "leave the map", show=False),
    ]
    ACTIONS = (
        ("pause or go on", "Space", "pause"),
        ("5 seconds back", "Left", "seek(-5)"),
        ("5 seconds on", "Right", "seek(5)"),
        ("beginning", "Home", "seek(-1e9)"),
        ("end", "End", "seek(1e9)"),
        ("faster", "+", "speed(1)"),
        ("slower", "-", "speed(-1)"),
        *MoeApp._COMMON,
    )

    def __init__(self, player: Player, *, as_chat: bool = False, **options: Any) -> None:
        super().__init__(player, **options)
        self.player, self.as_chat = player, as_chat
        self.transport = Transport(player, plain=self.plain, id="transport")
        self.view: AnswerView | None = None
        self._turn, self._jumps = "", 0

    def entry(self) -> Widget:
        """Where the replay stands; in a picture of a chat, an empty prompt."""
        return Prompt(PromptHistory(None), CompletionMenu(), id="prompt") if self.as_chat else self.transport

    async def tick(self) -> None:
        """Also moves the transport."""
        await super().tick()
        if not self.as_chat:
            self.transport.refresh()

    async def follow(self, snapshot: Snapshot) -> None:
        """Streams; builds anew after a seek."""
        if self.player.jumps != self._jumps:
            self._jumps = self.player.jumps
            await self.transcript.cut(0)
            self.view, self._turn = None, ""
            for past in self.player.turns():
                await self._begin(past)
                await self._grow(past)
        elif snapshot.turn != self._turn:
            for past in self._missed():
                if past.turn != self._turn:
                    await self._begin(past)
                await self._grow(past)
        await self._grow(snapshot)

    def _missed(self) -> list[Snapshot]:
        """Returns the ends of the turn that is shown and of all after it, up to this moment."""
        turns = self.player.turns()
        places = [place for place, past in enumerate(turns) if past.turn == self._turn]
        return turns[places[-1] :] if places else turns

    async def _begin(self, snapshot: Snapshot) -> None:
        await self.transcript.cut(snapshot.at)
        self._turn = snapshot.turn
        await self.transcript.say(snapshot.prompt)
        self.view = await self.transcript.answer(snapshot.model.name if snapshot.model else "assistant")

    async def _grow(self, snapshot: Snapshot) -> None:
        if self.view is None or snapshot.turn != self._turn:
            return
        over = snapshot.receipt is not None or bool(snapshot.error)
        await self.view.show(snapshot.text, snapshot.model, final=over)
        if over:
            await self.view.finish(snapshot.receipt, snapshot.error)
            self.view = None

    def action_pause(self) -> None:
        """Pauses, or goes on."""
        self.player.toggle()

    def action_seek(self, seconds: float) -> None:
        """Jumps."""
        self.player.seek(seconds)

    def action_speed(self, steps: int) -> None:
        """Plays faster or slower."""
        self.player.faster(steps)

    def action_blur(self) -> None:
        """Leaves the map, so that the keys move the replay again; then the theatre."""
        if self.in_theatre and self.focused is None:
            self.action_theatre()
        self.set_focus(None)
