"""A progress bar on standard error, shown to terminals only."""

from __future__ import annotations

import sys
import time
from threading import Lock
from typing import TextIO

WIDTH = 30


class Progress:
    """Counts bytes of one pass and draws them at most ten times a second.

    Args:
        title: What the pass does, one word.
        total: Bytes of the whole pass.
        stream: Where to draw; silent unless it is a terminal.
    """

    def __init__(self, title: str, total: int, stream: TextIO | None = None) -> None:
        self._title = title
        self._total = max(total, 1)
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream is not None and self._stream.isatty()  # None: standard error is closed
        self._done = 0
        self._begun = time.monotonic()
        self._drawn = 0.0
        self._lock = Lock()

    def add(self, nbytes: int) -> None:
        """Counts bytes as done; called from any thread."""
        with self._lock:
            self._done += nbytes
            now = time.monotonic()
            if self._shown and now - self._drawn >= 0.1:
                self._drawn = now
                self._draw(now)

    def _draw(self, now: float) -> None:
        share = min(1.0, self._done / self._total)
        rate = self._done / max(now - self._begun, 1e-3)
        left = (self._total - self._done) / rate if rate else 0
        bar = "#" * int(share * WIDTH)
        self._stream.write(
            f"\r{self._title:<9} [{bar:<{WIDTH}}] {share:4.0%}  {self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB  "
            f"{rate / 1e9:.2f} GB/s  {int(left) // 60}:{int(left) % 60:02} left "
        )
        self._stream.flush()

    def finish(self) -> None:
        """Draws the last state and ends the line."""
        with self._lock:
            if self._shown and self._drawn:
                self._draw(time.monotonic())
                self._stream.write("\n")
                self._stream.flush()
