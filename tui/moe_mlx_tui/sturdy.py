"""What goes wrong in one message must not end the app, and a conversation with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.message import Message
from textual.screen import Screen

if TYPE_CHECKING:
    from textual.message_pump import MessagePump as _Pump
else:
    _Pump = object


class Sturdy(_Pump):
    """Of a widget, a screen or an app: an error in a handler is handed to the app's `mishap`, and the next one runs."""

    async def _dispatch_message(self, message: Message) -> None:
        try:
            await super()._dispatch_message(message)
        except Exception as error:
            app: Any = self.app
            if not getattr(app, "survives", False):
                raise
            app.mishap(error)


class SturdyScreen(Sturdy, Screen[None]):
    """The app's own screen."""
