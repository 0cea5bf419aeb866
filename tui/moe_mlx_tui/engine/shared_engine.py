"""One engine, many screens: the engine's side of a Unix socket that speaks snapshots one way and orders the other.

A line is a JSON object: what changed since the snapshot before (see `codec`), or an order (see `orders`). Each screen
sees its own answers only; of another's it learns that the engine is busy. The socket lies in a folder that only its
owner can enter.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

from moe_mlx.errors import MoeMlxError
from moe_mlx_tui.engine.orders import Ask, Close, Compare, Load, Order, Source, Stop, from_row
from moe_mlx_tui.engine.snapshot import DECODE, PREFILL, Snapshot
from moe_mlx_tui.recording.codec import encode

#: Seconds between two snapshots to one screen.
INTERVAL = 0.1
LONGEST_LINE = 64 * 1024 * 1024


class SharedEngine:
    """Listens on a socket and passes on. `listeners` of the source wake the writers.

    Args:
        source: The engine.
        path: The socket's.
        may_load: Whether a screen may have another model loaded; else that is its owner's alone.
    """

    def __init__(self, source: Source, path: Path, *, may_load: bool = True) -> None:
        self.source, self.path, self.may_load = source, path, may_load
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen()
        self._news = threading.Condition()
        self._open = True

    def start(self) -> None:
        """Begins to accept screens."""
        threading.Thread(target=self._accept, name="moe-mlx-accept", daemon=True).start()

    def wake(self, snapshot: Snapshot) -> None:
        """Tells the writers that there is something new; hang it on the engine's listeners."""
        with self._news:
            self._news.notify_all()

    def close(self) -> None:
        """Accepts no more and lets the screens go."""
        self._open = False
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.wake(self.source.latest)

    def _accept(self) -> None:
        while self._open:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            screen = _Screen(self, peer)
            threading.Thread(target=screen.read, name="moe-mlx-screen-in", daemon=True).start()
            threading.Thread(target=screen.write, name="moe-mlx-screen-out", daemon=True).start()

    def wait(self) -> bool:
        """Waits for news; False once there will be none."""
        with self._news:
            self._news.wait(timeout=1.0)
        return self._open


class _Screen:
    """One connection."""

    def __init__(self, home: SharedEngine, peer: socket.socket) -> None:
        self.home, self.peer = home, peer
        self._turns: set[str] = set()
        self._here = True

    def read(self) -> None:
        """Takes orders until the other side goes; what it asked for is stopped then."""
        with contextlib.suppress(OSError, ValueError, MoeMlxError), self.peer.makefile("rb") as lines:
            while line := lines.readline(LONGEST_LINE):
                self._take(from_row(json.loads(line)))
        self._here = False
        for turn in self._turns:
            self.home.source.submit(Stop(turn))
        with contextlib.suppress(OSError):
            self.peer.close()

    def _take(self, order: Order) -> None:
        if isinstance(order, Ask | Compare):
            self._turns.add(order.turn)
        if isinstance(order, Load) and not self.home.may_load and (order.model or "model" in order.options):
            return
        if isinstance(order, Close) or (isinstance(order, Stop) and order.turn not in self._turns):
            return
        self.home.source.submit(order)

    def write(self) -> None:
        """Sends what changes."""
        before: Snapshot | None = None
        try:
            while self._here:
                now = self.mine(self.home.source.latest)
                if before is None or now != before:
                    self.peer.sendall(json.dumps(encode(now, before), ensure_ascii=False).encode() + b"\n")
                    before = now
                    time.sleep(INTERVAL)
                if not self.home.wait():
                    break
        except OSError:
            pass
        self._here = False
        with contextlib.suppress(OSError):
            self.peer.shutdown(socket.SHUT_RDWR)

    def mine(self, snapshot: Snapshot) -> Snapshot:
        """Returns a snapshot without what another screen asked and got."""
        if snapshot.compared is not None and snapshot.compared.turn not in self._turns:
            snapshot = replace(snapshot, compared=None)
        if not snapshot.turn or snapshot.turn in self._turns:
            return snapshot
        busy = "answering another screen" if snapshot.phase in (PREFILL, DECODE) else snapshot.activity
        return replace(snapshot, turn="", at=0, prompt="", text="", reply={}, receipt=None, error="", activity=busy)
