"""A server in a process of its own, and requests to it without any client library in between."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

READBACK = ("--routing", "exact", "--decode", "readback")


class Running:
    """A server that runs: where it is, its process, and what it has written on standard error."""

    def __init__(self, url: str, process: subprocess.Popen[str], lines: list[str]) -> None:
        self.url, self.process, self.lines = url, process, lines
        self.port = urlsplit(url).port

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        method: str | None = None,
        timeout: float = 120,
    ) -> tuple[int, dict[str, str], bytes]:
        """Sends one request; `body` is bytes as they are, or anything JSON takes."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method or ("GET" if data is None else "POST"), path, data, sent | (headers or {}))
            response = connection.getresponse()
            got = {name.lower(): value for name, value in response.getheaders()}
            return response.status, got, response.read()
        finally:
            connection.close()

    def chat(self, text: str, **more: Any) -> dict[str, Any]:
        """Returns the answer to one message, which has to be one."""
        status, _, body = self.ask("/v1/chat/completions", {"messages": [user(text)], **more})
        assert status == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer

    def said(self, text: str, **more: Any) -> str:
        """Returns the text of the answer to one message."""
        return str(self.chat(text, **more)["choices"][0]["message"]["content"])

    def health(self) -> dict[str, Any]:
        """Returns what /health says."""
        body: dict[str, Any] = json.loads(self.ask("/health")[2])
        return body

    def footprint(self) -> int:
        """Peak resident bytes of the process."""
        with open(f"/proc/{self.process.pid}/status") as lines:  # noqa: PTH123
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def user(text: str) -> dict[str, str]:
    """A message."""
    return {"role": "user", "content": text}


def events(body: bytes) -> list[Any]:
    """Returns the data of server-sent events, parsed; "[DONE]" as it is."""
    rows = [line.removeprefix("data: ") for line in body.decode().split("\n") if line.startswith("data: ")]
    return [row if row == "[DONE]" else json.loads(row) for row in rows]


def open_stream(running: Running, text: str, **more: object) -> socket.socket:
    """Sends a request and returns its connection, to be read from or left."""
    body = json.dumps({"messages": [user(text)], **more}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    peer = socket.create_connection(("127.0.0.1", running.port), timeout=60)
    peer.sendall(head.encode() + body)
    return peer


@contextmanager
def served(
    *words: str,
    model: tuple[str, ...] = READBACK,
    environment: dict[str, str] | None = None,
    within: Callable[[Sequence[str]], list[str]] = list,
) -> Iterator[Running]:
    """Runs `moe-mlx serve` on a free port until the block ends; `within` wraps its command."""
    command = [sys.executable, "-m", "moe_mlx", "serve", *model, "--port", "0", "--no-history", *words]
    process = subprocess.Popen(
        within(command),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    assert process.stderr is not None
    lines: list[str] = []
    url = ""
    for line in process.stderr:
        lines.append(line)
        if "serving " in line:
            url = line.rsplit(" ", 1)[-1].strip().strip('"}')
            break
    assert url, "".join(lines)
    threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True).start()
    try:
        yield Running(url, process, lines)
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(true: Any, seconds: float = 30.0) -> None:
    """Waits until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
