"""One connection between two ranks: a JSON object a line, bounded, sent whole by one thread at a time."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from typing import Any

#: The longest line: a prompt of a million tokens.
LONGEST = 16_000_000
_CHUNK = 65_536
#: Seconds that stand for no limit. With a limit Python waits first and takes a message once it may run: where something
#: keeps its lock (`machines.connecting`) what came is still there to be seen.
_FOREVER = 1e6


class Line:
    """A connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._rest, self._sending = connection, b"", threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message.

        Raises:
            OSError: the connection is lost, or the other side takes nothing.
        """
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._sending:
            self._socket.sendall(data)

    def receive(self, seconds: float | None = None) -> dict[str, Any]:
        """Waits for a message.

        Args:
            seconds: How long at most between two pieces of it; None for ever.

        Raises:
            OSError: the connection is lost, or nothing came.
            ValueError: what came is no message.
        """
        self._socket.settimeout(_FOREVER if seconds is None else seconds)
        try:
            while b"\n" not in self._rest:
                if len(self._rest) > LONGEST:
                    raise ValueError("a line too long")
                if not (piece := self._socket.recv(_CHUNK)):
                    raise ConnectionError("its connection was closed")
                self._rest += piece
        finally:
            with suppress(OSError):
                self._socket.settimeout(None)
        text, _, self._rest = self._rest.partition(b"\n")
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("what it sends is no JSON") from None
        if not isinstance(found, dict):
            raise ValueError("what it sends is no message")
        return found

    def fileno(self) -> int:
        """Returns the connection's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes the connection; whoever waits for a message is told so."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
