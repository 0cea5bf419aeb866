"""An engine behind a socket, for a screen in a process of its own."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from moe_mlx.errors import MoeMlxError, StoreMissingError
from moe_mlx_tui.engine.orders import Order, to_row
from moe_mlx_tui.engine.snapshot import CLOSED, Snapshot
from moe_mlx_tui.recording.codec import decode


class RemoteSource:
    """Reads snapshots in a thread; `latest` is the newest of them."""

    live = True

    def __init__(self, path: Path) -> None:
        self._peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._peer.connect(str(path))
        except OSError as error:
            raise StoreMissingError(f"no engine answers at {path}: start `moe-mlx chat --web` again") from error
        self._latest = Snapshot(activity="connecting")
        self.listeners: list[Callable[[Snapshot], None]] = []
        self._reader = threading.Thread(target=self._read, name="moe-mlx-remote", daemon=True)

    @property
    def latest(self) -> Snapshot:
        """The newest snapshot."""
        return self._latest

    def start(self) -> None:
        """Begins to read."""
        self._reader.start()

    def _read(self) -> None:
        before: Snapshot | None = None
        with contextlib.suppress(OSError, ValueError, MoeMlxError), self._peer.makefile("rb") as lines:
            for line in lines:
                before = decode(json.loads(line), before)
                self._publish(before)
        self._publish(replace(self._latest, phase=CLOSED, activity="", error="the engine has ended"))

    def _publish(self, snapshot: Snapshot) -> None:
        self._latest = snapshot
        for listener in self.listeners:
            listener(snapshot)

    def submit(self, order: Order) -> None:
        """Sends an order; an engine that has gone takes none."""
        with contextlib.suppress(OSError):
            self._peer.sendall(json.dumps(to_row(order), ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        """Leaves; the engine goes on."""
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)
        self._peer.close()
