"""The way to a running `moe-mlx serve`: a request, and its lines as they come."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from moe_mlx.errors import MoeMlxError, UsageError

#: Seconds without a word from the server; it sends a state three times a second, and signs of life while it reads.
SILENCE = 30.0


class Link:
    """Where a server is, and its key.

    Raises:
        UsageError: `url` is no address.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url, self._key = url.rstrip("/"), key
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--attach {url}: give http://HOST:PORT")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._path = parts.netloc.rpartition("@")[2], parts.path

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        """Sends a request and returns its reply, of which the lines are still to come.

        Raises:
            MoeMlxError: no server there, or it refuses.
        """
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            connection = self._kind(self._host, timeout=SILENCE)
            connection.connect()
            peer = connection.sock
            data = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", f"{self._path}{path}", data, headers)
            response = connection.getresponse()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise MoeMlxError(f"no server answers at {self.url}: {error}") from error
        if response.status != http.client.OK:
            with contextlib.closing(connection):
                raise MoeMlxError(f"the server at {self.url}: {_refusal(response)}")
        return Reply(connection, response, peer)


class Reply:
    """A reply under way."""

    def __init__(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, peer: socket.socket
    ) -> None:
        self._connection, self._response, self._peer = connection, response, peer

    def events(self) -> Iterator[tuple[str, Any]]:
        """Yields the name and the data of each event, the end mark of a completion apart; closes it at the end.

        Raises:
            OSError, HTTPException: the connection is lost, or `end` was called.
            ValueError: an event that is no JSON.
        """
        name = ""
        with contextlib.closing(self._connection):
            for line in self._response:
                text = line.decode().rstrip("\r\n")
                if text.startswith("event: "):
                    name = text.removeprefix("event: ")
                elif text.startswith("data: ") and text != "data: [DONE]":
                    yield name, json.loads(text.removeprefix("data: "))

    def end(self) -> None:
        """Leaves, from whichever thread: who waits for a line waits no longer, and the server stops."""
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)


def _refusal(response: http.client.HTTPResponse) -> str:
    try:
        return str(json.load(response)["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return f"it answers {response.status}"
