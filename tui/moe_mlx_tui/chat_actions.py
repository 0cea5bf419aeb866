"""What the chat can be told beside talking: copy, settings, sessions, exports."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType

from moe_mlx.conversation.opening import OFF
from moe_mlx.system.terminal import harmless
from moe_mlx.system.whole_files import write_whole
from moe_mlx_tui.base_app import MoeApp
from moe_mlx_tui.compare_actions import CompareActions
from moe_mlx_tui.drawing.sections import spoken
from moe_mlx_tui.engine.orders import Configure, Reset
from moe_mlx_tui.entry_actions import EntryActions
from moe_mlx_tui.saved.conversation import Conversation, export_name
from moe_mlx_tui.saved.sessions import Sessions
from moe_mlx_tui.screens.sessions import SessionsScreen
from moe_mlx_tui.screens.settings import Chosen, SettingsScreen
from moe_mlx_tui.screens.system_prompt import SystemPromptScreen
from moe_mlx_tui.widgets.answer_view import AnswerView


class ChatActions(CompareActions):
    """Actions around a conversation. `view` is the answer under way, if there is one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "stop", show=False),
        Binding("ctrl+y", "copy_answer", "copy the answer", show=False),
        Binding("ctrl+t", "thinking", "unfold thinking", show=False),
        Binding("ctrl+n", "new_session", "new session", show=False),
        Binding("ctrl+s", "sessions", "sessions", show=False),
        Binding("ctrl+o", "settings", "settings", show=False),
    ]
    ACTIONS = (
        ("stop", "Esc: stop the answer at the next token", "stop"),
        (
            "copy the answer",
            "Ctrl+Y: the picked one or the last; reaches the clipboard over SSH too",
            "copy_answer",
        ),
        ("unfold thinking", "Ctrl+T", "thinking"),
        ("settings", "Ctrl+O: cap, routing, sampling, system prompt, eviction, read-ahead", "settings"),
        *EntryActions.MODEL_ACTIONS,
        *EntryActions.ENTRY_ACTIONS,
        *CompareActions.COMPARE_ACTIONS,
        ("system prompt", "what every answer starts from", "system_prompt"),
        ("new session", "Ctrl+N", "new_session"),
        ("sessions", "Ctrl+S: search, go on with, rename, delete, export", "sessions"),
        ("export as Markdown", "to a file in this folder", "export('md')"),
        ("export as JSON", "to a file in this folder", "export('json')"),
        ("empty the expert cache", "and its counters: the next answer starts cold", "reset_cache"),
        *MoeApp._COMMON,
    )

    sessions: Sessions
    view: AnswerView | None

    async def show_conversation(self) -> None:
        """Shows the whole conversation anew."""
        raise NotImplementedError

    def show_figures(self) -> None:
        """Shows anew what is told of the conversation in the status line."""
        if self.shown is not None:
            self.status.show(self.shown, self.context_used(self.shown))

    def show_system(self) -> None:
        """Shows the system prompt in force."""
        raise NotImplementedError

    def save(self) -> None:
        """Saves the session."""
        raise NotImplementedError

    def idle(self) -> bool:
        """Whether no answer is under way; says so if there is one."""
        if self.view is not None:
            self.notify("An answer is under way: Esc stops it.", severity="warning")
        return self.view is None

    def action_copy_answer(self) -> None:
        """Copies the picked message or the last answer, without its thinking."""
        picked = self.transcript.picked_place
        answer = self.transcript.last_answer if picked is None else self.transcript.placed[picked]
        if answer is None or not answer.text:
            self.notify("There is no answer to copy yet.", severity="warning")
            return
        self.copy_to_clipboard(spoken(answer.text, self.thinking_tags))
        self.notify("Copied.", timeout=2)

    def action_thinking(self) -> None:
        """Unfolds the last answer's thinking, or folds it."""
        if (answer := self.transcript.last_answer) is not None:
            answer.toggle_thinking()

    async def action_new_session(self) -> None:
        """Starts over; the system prompt stays, the old session is kept."""
        if self.idle():
            self.talk = Conversation(system=self.talk.system)
            await self.transcript.cut(0)
            await self.show_welcome()
            self.show_figures()
            self.notify("A new session. Ctrl+S lists the old ones.", timeout=3)

    def action_sessions(self) -> None:
        """Lets one choose a saved session."""
        if self.idle():
            export = partial(self.export, suffix="md")
            self.push_screen(SessionsScreen(self.sessions, self.talk, export, self._said_of_caches()), self._resume)

    async def _resume(self, talk: Conversation | None) -> None:
        if talk is not None and talk is not self.talk:
            self.talk = talk
            await self.show_conversation()

    def _said_of_caches(self) -> str:
        """Returns whether what a resumed session has read is kept on disk."""
        loading = dict(self.shown.settings.loading) if self.shown is not None else {}
        where = loading.get("prompt_store")
        if where is None:
            return ""
        return "prompt caches on disk: off (Ctrl+O)" if where == OFF else "prompt caches on disk: on"

    def action_rename(self, title: str) -> None:
        """Gives this session another title."""
        self.talk.name = " ".join(title.split())
        self.notify(f"This session is called {harmless(self.talk.title)}.", timeout=3, markup=False)
        if self.talk.messages:
            self.save()

    def action_settings(self) -> None:
        """Opens the settings."""
        if self.shown is None or self.shown.model is None:
            self.notify("The settings open when the model is loaded.", severity="warning")
            return
        self.push_screen(SettingsScreen(self.shown.settings, self.talk.system), self._configure)

    def _configure(self, chosen: Chosen | None) -> None:
        if chosen is None:
            return
        self._set_system(chosen.system)
        if isinstance(chosen.order, Configure) or (chosen.order is not None and self.idle()):
            self.source.submit(chosen.order)

    def action_system_prompt(self, text: str = "") -> None:
        """Opens the system prompt, or takes another one."""
        if text:
            self._set_system(text)
        else:
            self.push_screen(SystemPromptScreen(self.talk.system), self._set_system)

    def _set_system(self, text: str | None) -> None:
        if text is not None:
            self.talk.system = text
            self.show_system()
            if self.talk.messages:
                self.save()

    def action_export(self, suffix: str) -> None:
        """Writes the conversation to a file."""
        self.export(self.talk, suffix)

    def export(self, talk: Conversation, suffix: str) -> None:
        """Writes a conversation to a file in the working folder."""
        path = Path.cwd() / export_name(talk, suffix)
        try:
            write_whole(path, talk.to_json() if suffix == "json" else talk.to_markdown(), private=True)
        except OSError as error:
            self.notify(f"not exported: {error.strerror} ({path})", severity="error", markup=False)
            return
        self.notify(f"Written to {path.name} in {path.parent}.", markup=False)

    def action_reset_cache(self) -> None:
        """Empties the expert cache."""
        if self.idle():
            self.source.submit(Reset())

    def action_cap(self, expert_cache: str) -> None:
        """Changes the cap."""
        self.set_cap(expert_cache)

    def action_routing(self, policy: str) -> None:
        """Changes the policy."""
        self.set_routing(routing=policy)

    def set_cap(self, expert_cache: str) -> None:
        """Changes the cap between two tokens."""
        self.source.submit(Configure(expert_cache=expert_cache))

    def set_routing(self, **changes: object) -> None:
        """Changes the routing between two tokens."""
        self.source.submit(Configure(routing=changes))

    def set_sampling(self, **changes: object) -> None:
        """Changes the sampling, from the next answer on."""
        self.source.submit(Configure(sampling=changes))
