"""The conversation app: talks to an engine and shows it working."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from textual.containers import Vertical
from textual.widget import Widget

from moe_mlx.system.whole_files import write_whole
from moe_mlx_tui.base_app import SWAPPED
from moe_mlx_tui.engine.orders import Ask, Source, Stop
from moe_mlx_tui.engine.snapshot import CLOSED, EMPTY, FAILED, LOADING, PREFILL, Snapshot
from moe_mlx_tui.entry.files import split_files
from moe_mlx_tui.saved.conversation import Conversation
from moe_mlx_tui.saved.paths import data_folder
from moe_mlx_tui.saved.prompt_history import PromptHistory
from moe_mlx_tui.saved.sessions import Sessions
from moe_mlx_tui.turn_actions import TurnActions
from moe_mlx_tui.widgets.answer_view import AnswerView
from moe_mlx_tui.widgets.completion_menu import CompletionMenu
from moe_mlx_tui.widgets.finder import Finder
from moe_mlx_tui.widgets.prompt import Prompt
from moe_mlx_tui.widgets.system_line import SystemLine


class ChatApp(TurnActions):
    """Talks to an engine."""

    def __init__(
        self, source: Source, *, home: Path | None = None, conversation: Conversation | None = None, **options: Any
    ) -> None:
        super().__init__(source, **options)
        home = data_folder() if home is None else home
        self.sessions = Sessions(home / "sessions")
        self.system_line = SystemLine(id="system_line")
        self.menu = CompletionMenu(id="menu")
        self.prompt = Prompt(PromptHistory(home / "history.jsonl"), self.menu, id="prompt")
        self.prompt.look = self.completions
        self.finder = Finder(self.transcript, id="finder")
        self.talk = conversation or Conversation()
        self.client, self.count = uuid4().hex[:8], 0
        self.turn, self.view = "", None  # type: tuple[str, AnswerView | None]
        self._remarks = 0

    def entry(self) -> Widget:
        """The prompt, and above it what it may become and what is searched for."""
        return Vertical(self.menu, self.finder, self.prompt, id="entry")

    async def begin(self) -> None:
        """Goes to the prompt, and shows what was said before."""
        self.prompt.focus()
        await self.query_one("#talk").mount(self.system_line, before=self.transcript)
        self.show_system()
        if self.talk.messages:
            await self.show_conversation()
        if self.at_home:
            self.action_models()

    def mishap(self, error: Exception) -> None:
        """Keeps the conversation and goes on."""
        self.save()
        super().mishap(error)

    def focus_entry(self) -> None:
        """Goes back to the prompt."""
        self.prompt.focus()

    def show_system(self) -> None:
        """Shows the system prompt in force."""
        self.system_line.show(self.talk.system)

    async def show_conversation(self) -> None:
        """Shows the whole conversation anew."""
        self.show_system()
        await self.show_from(0)
        self.show_figures()

    async def show_from(self, place: int) -> None:
        """Shows the conversation anew from message `place` on."""
        await self.transcript.cut(place)
        facts = self.shown.model if self.shown else None
        receipts = self.talk.receipts
        for at, message in enumerate(self.talk.messages[place:], start=place):
            if message["role"] == "user":
                await self.transcript.say(message["content"])
            else:
                view = await self.transcript.answer(self.talk.model or "assistant")
                await view.show(message["content"], facts, final=True)
                await view.finish(receipts.get(at))
            self._mark(at)

    def _mark(self, place: int) -> None:
        """Says on a turn which of its versions it is."""
        self.transcript.placed[place].mark(*self.talk.versions.version(place))

    async def on_prompt_sent(self, event: Prompt.Sent) -> None:
        """Sends a message, unless something is under way."""
        phase = self.shown.phase if self.shown else LOADING
        if await self.took_command(event.text):
            return
        if self.view is not None:
            self.notify("An answer is under way: Esc stops it.", severity="warning")
        elif phase in (EMPTY, FAILED, CLOSED):
            self.notify("There is no model to talk to: F2 or /model lists them.", severity="error")
        elif (content := self.attached(event.text)) is not None:
            self.prompt.take()
            await self.ask(content)

    def on_prompt_help_wanted(self) -> None:
        """Shows the keys."""
        self.action_help()

    async def ask(self, text: str) -> None:
        """Puts a message into the conversation and asks for its answer."""
        at = self.talk.say(text)
        await self.transcript.say(text)
        self._mark(at)
        await self.seek_answer()

    async def seek_answer(self) -> None:
        """Asks for an answer to the conversation as it stands."""
        self.count += 1
        self.turn = f"{self.client}-{self.count}"
        facts = self.shown.model if self.shown else None
        self.talk.model = facts.name if facts else self.talk.model
        self.view = await self.transcript.answer(self.talk.model or "assistant")
        self.source.submit(Ask(self.turn, len(self.talk.messages) - 1, self.talk.wire()))

    async def follow(self, snapshot: Snapshot) -> None:
        """Streams the answer, ends it, passes remarks on."""
        self.show_comparison(snapshot)
        for remark in snapshot.remarks[len(snapshot.remarks) - (snapshot.remark_count - self._remarks) :]:
            await self.transcript.remark(remark)
            if remark.startswith("not changed"):
                self.notify(remark, severity="error", markup=False)
        self._remarks = snapshot.remark_count
        if self.view is None:
            return
        if snapshot.model is not None and snapshot.model.name != self.talk.model:  # asked while it was being loaded
            self.talk.model = snapshot.model.name
            self.view.call(self.talk.model)
        if snapshot.phase == FAILED:
            await self._finished(self.view, snapshot)
        if self.view is None or snapshot.turn != self.turn:
            return
        over = snapshot.receipt is not None or bool(snapshot.error)
        if over or self.talk_in_view:
            await self.view.show(snapshot.text, snapshot.model, final=over)
        if over:
            await self._finished(self.view, snapshot)

    def context_used(self, snapshot: Snapshot) -> int:
        """Returns the tokens of this conversation: of the answer under way, or as its last receipt has them."""
        if self.view is not None and snapshot.turn == self.turn:
            return snapshot.context
        receipts = self.talk.receipts
        last = receipts[max(receipts)] if receipts else None
        return last.prompt_tokens + last.tokens if last is not None and last.counted else 0

    async def _finished(self, view: AnswerView, snapshot: Snapshot) -> None:
        try:
            await view.finish(snapshot.receipt, snapshot.error)
            if snapshot.error or not snapshot.text:
                await self._unanswered(view, failed=bool(snapshot.error))
                return
            self.talk.answered(snapshot.text, snapshot.receipt, snapshot.reply)
            self._mark(len(self.talk.messages) - 1)
        finally:
            self.view = None  # not before the turn stands: who waits for it may begin the next one
        self.save()

    async def _unanswered(self, view: AnswerView, *, failed: bool) -> None:
        """Puts things back as they were: an older answer, or the message into the prompt."""
        asked = len(self.talk.messages) - 1
        if self.talk.versions.path()[asked].after:
            self.talk.versions.undo()
            if failed:
                view.place = None
            await self.show_from(asked + 1)
            if not failed:
                self.notify("Stopped before the first token; the answer before is back.")
            return
        view.place = self.transcript.placed[asked].place = None
        text = self.talk.versions.drop()
        if text and not self.prompt.text:
            self.prompt.put(split_files(text)[0])
        if not failed:
            self.notify("Stopped before the first token; the message is back in the prompt.")

    def save(self) -> None:
        """Saves the session in the background."""
        path, text = self.sessions.folder / f"{self.talk.ident}.json", self.talk.to_json()
        self.run_worker(partial(self._write, path, text), thread=True, group="save", exit_on_error=False)

    def _write(self, path: Path, text: str) -> None:
        try:
            write_whole(path, text, private=True)
        except OSError as error:
            self.call_from_thread(
                partial(self.notify, markup=False),
                f"the session was not saved: {error.strerror} ({path})",
                severity="error",
            )

    async def action_stop(self) -> None:
        """Stops the answer; with nothing to stop leaves an edit, or goes back to the prompt."""
        if self.view is not None:
            self._stop()
        elif self.prompt.editing:
            await self.action_undo()
        elif self.in_theatre and not self.side.residency.map.has_focus:
            self.action_theatre()
        elif self.narrow and self.screen_stack[0].has_class(SWAPPED):
            self.action_swap_map()
        else:
            self.prompt.focus()

    def _stop(self) -> None:
        self.source.submit(Stop(self.turn))
        if self.shown is not None and self.shown.phase == PREFILL:  # seconds, where the model is large
            self.notify("Stopping where this part of the prompt ends.", timeout=3)

    def action_help_quit(self) -> None:
        """Ctrl+C stops an answer, as it would anywhere; with nothing to stop it says what leaves."""
        if self.view is not None:
            self._stop()
        else:
            super().action_help_quit()
