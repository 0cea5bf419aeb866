"""The chat app as a browser's tab has it: files go to the browser, and a reload finds the conversation again."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from textual import events
from textual.driver import Driver
from textual.drivers.web_driver import WebDriver
from textual.message import Message

from moe_mlx.errors import MoeMlxError
from moe_mlx.system.whole_files import write_whole
from moe_mlx_tui.chat_app import ChatApp
from moe_mlx_tui.drawing.sections import reply_as_shown
from moe_mlx_tui.engine.orders import Source
from moe_mlx_tui.engine.snapshot import NO_FACTS
from moe_mlx_tui.saved.conversation import Conversation, export_name, load

#: What the page's touch bar may ask for, and the action it stands for.
TOUCHES = {
    "stop": "stop",
    "map": "swap_map",
    "palette": "command_palette",
    "sessions": "sessions",
    "settings": "settings",
    "model": "models",
    **{f"cap {share}%": f"cap('{share}%')" for share in (25, 50, 75)},
}
_LINKS = ("http://", "https://", "mailto:")


class Touched(Message):
    """A button of the touch bar."""

    def __init__(self, button: str) -> None:
        super().__init__()
        self.button = button


class TabApp(ChatApp):
    """A conversation of one browser tab.

    Args:
        source: The engine.
        kept: Folder of what a reload brings back.
        hang_up: Called when the server's pipe ends.
        fresh: The conversation where nothing was kept.
        models: Whether other models may be chosen from here.
        options: As of `ChatApp`.
    """

    def __init__(
        self,
        source: Source,
        *,
        kept: Path,
        hang_up: Callable[[], None],
        fresh: Conversation,
        models: bool = True,
        **options: Any,
    ) -> None:
        self.kept, self.hang_up, self.models = kept, hang_up, models
        talk, self._draft = fresh, ""
        with contextlib.suppress(MoeMlxError):
            talk = load(kept / "talk.json")
        with contextlib.suppress(OSError, ValueError):
            self._draft = (kept / "draft.txt").read_text(encoding="utf-8")
        super().__init__(source, conversation=talk, **options)

    #: A browser's user may be somebody else than the files' owner.
    attaches = False

    def get_driver_class(self) -> type[Driver]:
        """Returns textual-serve's driver, with a pipe that may end."""
        return TabDriver

    async def on_event(self, event: events.Event) -> None:
        """Passes events on, but for the blur that textual's driver begins with where the browser has focus already."""
        if not (isinstance(event, events.AppBlur) and getattr(self._driver, "has_focus", False)):
            await super().on_event(event)

    def action_models(self, wanted: str = "") -> None:
        """Lists the models, where the owner lets this browser choose."""
        if self.models:
            super().action_models(wanted)
        else:
            self.notify(
                "Which model runs is its owner's choice: `moe-mlx chat --web --any-model` leaves it to every browser.",
                severity="warning",
            )

    async def begin(self) -> None:
        """Shows what was said, and what was being typed, before a reload."""
        await super().begin()
        if self._draft:
            self.prompt.put(self._draft)

    def save(self) -> None:
        """Saves the session, and keeps it for a reload."""
        super().save()
        self.run_worker(
            partial(self._write, self.kept / "talk.json", self.talk.to_json()),
            thread=True,
            group="save",
            exit_on_error=False,
        )

    def keep(self) -> None:
        """Keeps conversation and draft as they stand, an answer under way included; called when the app has ended."""
        draft = self.prompt.text
        if self.view is not None:
            latest = self.source.latest
            if latest.turn == self.turn and latest.text:
                facts = latest.model or NO_FACTS
                self.talk.answered(latest.text, None, reply_as_shown(latest.text, facts.thinking, facts.tools))
            elif self.talk.versions.path()[-1].after:  # the answer before is there
                self.talk.versions.undo()
            else:
                draft = draft or self.talk.versions.drop()
        with contextlib.suppress(OSError):
            self.sessions.save(self.talk)
            write_whole(self.kept / "talk.json", self.talk.to_json(), private=True)
            write_whole(self.kept / "draft.txt", draft, private=True)

    def export(self, talk: Conversation, suffix: str) -> None:
        """Hands a conversation to the browser, which saves it where its user keeps downloads."""
        text, kind = talk.to_markdown(), "text/markdown"
        if suffix == "json":
            text, kind = talk.to_json(), "application/json"
        name = export_name(talk, suffix)
        self.deliver_text(io.StringIO(text), save_filename=name, encoding="utf-8", mime_type=kind)
        self.notify(f"{name} goes to your browser's downloads.", markup=False)

    def open_url(self, url: str, *, new_tab: bool = True) -> None:
        """Opens a link of an answer, if it is one of the web's."""
        if url.lower().startswith(_LINKS):
            super().open_url(url, new_tab=True)
        else:
            self.notify("Only links to the web are opened.", severity="warning")

    async def on_touched(self, event: Touched) -> None:
        """Closes whatever lies over the conversation, then does what the button says."""
        action = TOUCHES.get(event.button)
        over = len(self.screen_stack) > 1
        while len(self.screen_stack) > 1:
            await self.pop_screen()
        if action and not (over and action == "stop"):
            await self.run_action(action)


def _write(fileno: int, hang_up: Callable[[], None], data: bytes) -> int:
    try:
        return os.write(fileno, data)
    except OSError:
        hang_up()
        return len(data)


class TabDriver(WebDriver):
    """The browser's side of the app: tells of the pipe's end, and knows the touch bar."""

    def __init__(self, app: TabApp, **options: Any) -> None:
        super().__init__(app, **options)
        self._tab, self.has_focus = app, False
        self._write = partial(_write, self.fileno, app.hang_up)

    def run_input_thread(self) -> None:
        """Reads until the pipe ends; nobody is there then."""
        super().run_input_thread()
        if not self.exit_event.is_set():
            self._tab.hang_up()

    def on_meta(self, packet_type: str, payload: dict[str, object]) -> None:
        """Takes what the server says beside keys."""
        if packet_type in ("focus", "blur"):
            self.has_focus = packet_type == "focus"
        if packet_type == "touch":
            self._tab.post_message(Touched(str(payload.get("name"))))
        else:
            super().on_meta(packet_type, payload)
