"""What can be done to any turn: answer again, edit, look at other versions, go back. Nothing is lost by it."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from moe_mlx_tui.chat_actions import ChatActions
from moe_mlx_tui.entry.files import split_files
from moe_mlx_tui.widgets.prompt import Prompt


class TurnActions(ChatActions):
    """Actions on the picked turn; with none picked, on the last one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "regenerate", "answer again", show=False),
        Binding("ctrl+l", "edit_last", "edit the message", show=False),
        Binding("ctrl+b", "undo", "undo", show=False),
    ]
    ACTIONS = (
        ("answer again", "Ctrl+R: another version of the picked answer, or of the last", "regenerate"),
        ("edit the message", "Ctrl+L: the picked message, or the last; the old one stays as a version", "edit_last"),
        ("undo", "Ctrl+B: the last edit, new answer or choice of a version", "undo"),
        ("redo", "take an undo back", "redo"),
        ("version before", "of the picked turn, or of the last answer; Left in the conversation", "browse(-1)"),
        ("next version", "of the picked turn, or of the last answer; Right in the conversation", "browse(1)"),
        ("pick a message", "Shift+Tab: Up and Down pick, Left and Right look at versions, r e y act", "pick_turn"),
        *ChatActions.ACTIONS,
    )

    prompt: Prompt

    async def show_from(self, place: int) -> None:
        """Shows the conversation anew from message `place` on."""
        raise NotImplementedError

    async def seek_answer(self) -> None:
        """Asks for an answer to the conversation as it stands."""
        raise NotImplementedError

    def _place(self, role: str) -> int | None:
        """Returns the picked message, or its neighbour of that role, or the last one of it."""
        picked = self.transcript.picked_place
        messages = self.talk.messages
        if picked is None or picked >= len(messages):
            return self.talk.last(role)
        if messages[picked]["role"] == role:
            return picked
        return picked - 1 if role == "user" else min(picked + 1, len(messages))

    async def _settled(self) -> bool:
        """Whether nothing is under way; an edit that is, is left."""
        if self.idle() and self.prompt.editing:
            await self.action_undo()
        return self.view is None

    async def action_new_session(self) -> None:
        """Starts over."""
        if await self._settled():
            await super().action_new_session()

    async def action_regenerate(self) -> None:
        """Makes another version of an answer."""
        if not await self._settled() or (asked := self._place("user")) is None:
            return
        self.transcript.unpick()
        self.talk.versions.open(asked + 1)
        await self.transcript.cut(asked + 1)
        await self.seek_answer()

    async def action_edit_last(self) -> None:
        """Takes a message into the prompt; sent, it stands as another version beside the old one."""
        if not await self._settled() or (place := self._place("user")) is None:
            return
        text, _ = split_files(self.talk.messages[place]["content"])
        self.transcript.unpick()
        self.talk.versions.open(place)
        await self.transcript.cut(place)
        self.prompt.begin_edit(text)
        self.prompt.focus()

    async def action_undo(self) -> None:
        """Goes back to how the conversation stood before."""
        if self.idle():
            await self._moved(self.talk.versions.undo(), "There is nothing to undo.")

    async def action_redo(self) -> None:
        """Takes an undo back."""
        if self.idle():
            await self._moved(self.talk.versions.redo(), "There is nothing to take back.")

    async def _moved(self, place: int | None, otherwise: str) -> None:
        if place is None:
            self.notify(otherwise, timeout=3)
            return
        self.prompt.leave_edit()
        await self.show_from(place)
        if not self.talk.messages:
            await self.show_welcome()
        self.save()

    def action_browse(self, step: int, place: int | None = None) -> None:
        """Shows another version of a turn, with all that followed it."""
        self.call_later(self._browse, step, place)  # a click is handled by the very turn that will go

    async def _browse(self, step: int, place: int | None) -> None:
        if not await self._settled():
            return
        if place is None:
            picked = self.transcript.picked_place
            place = self.talk.last("assistant") if picked is None else picked
        if place is None or not self.talk.versions.browse(place, step):
            self.notify("There is one version: Ctrl+R makes another, Ctrl+L edits.", timeout=3)
            return
        was_picked = self.transcript.picked_place is not None
        await self.show_from(place)
        if was_picked:
            self.transcript.pick(place)
        self.save()

    def action_pick_turn(self) -> None:
        """Goes to the conversation, where turns can be picked."""
        self.transcript.focus()
