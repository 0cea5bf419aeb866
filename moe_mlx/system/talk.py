"""Progress on standard error: one line that rewrites itself, for terminals only, and what is counted in it."""

from __future__ import annotations

import json
import sys
import time
from threading import Lock
from typing import TextIO

from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.table import rate as show_rate

#: Columns that the line takes at most, and seconds between two drawings of a count.
_WIDEST, _INTERVAL = 110, 0.1
_BAR = 24


class Talk:
    """What a long job says while it runs.

    Args:
        stream: Where to; standard error by default. Progress is drawn where that is a terminal, and nowhere else.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._width = 0
        self.shown = self._stream is not None and self._stream.isatty()  # None: standard error is closed

    def progress(self, line: str) -> None:
        """Shows what is under way in place of what was."""
        if self.shown:
            line = line[:_WIDEST]
            self._stream.write(f"\r{line:<{self._width}}")
            self._stream.flush()
            self._width = max(self._width, len(line))

    def counted(self, title: str, done: int, total: int, line: str) -> None:
        """Shows how far a count is, as a line."""
        self.progress(line)

    def say(self, line: str) -> None:
        """Prints a remark that stays."""
        self.clear()
        print(line, file=self._stream)

    def clear(self) -> None:
        """Takes the progress line away."""
        if self.shown and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0


class RowTalk(Talk):
    """Progress for another program: a JSON object a line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self.shown = self._stream is not None

    def progress(self, line: str) -> None:
        """Leaves lines out: who reads rows draws its own."""

    def counted(self, title: str, done: int, total: int, line: str) -> None:
        """Writes a row."""
        print(json.dumps({"pass": title, "done": done, "total": total}), file=self._stream, flush=True)


class Count:
    """How much of one pass is done, drawn at most ten times a second; counted from any thread.

    Args:
        talk: Draws it.
        title: What the pass does.
        total: Its end.
        unit: What is counted; bytes are shown as sizes.
    """

    def __init__(self, talk: Talk, title: str, total: int, unit: str = "bytes") -> None:
        self._talk, self._title, self._total, self._unit = talk, title, total, unit
        self._done = 0
        self._begun, self._drawn = time.monotonic(), 0.0
        self._lock = Lock()

    def add(self, number: int) -> None:
        """Counts more as done."""
        with self._lock:
            self._reach(self._done + number)

    def reach(self, done: int) -> None:
        """Says how much is done in all."""
        with self._lock:
            self._reach(done)

    def _reach(self, done: int) -> None:
        self._done, now = done, time.monotonic()
        if self._talk.shown and (now - self._drawn >= _INTERVAL or done >= self._total):
            self._drawn = now
            self._talk.counted(self._title, self._done, self._total, self.line(now - self._begun))

    def line(self, seconds: float) -> str:
        """Returns how far the pass is after some seconds: bar, share, count, rate and what is left of the time."""
        share = min(1.0, self._done / max(self._total, 1))
        rate = self._done / max(seconds, 1e-3)
        left = int((self._total - self._done) / rate) if rate else 0
        if self._unit == "bytes":
            counted = f"{show_bytes(self._done)} of {show_bytes(self._total)}  {show_rate(rate)}"
        else:
            counted = f"{self._done:,} of {self._total:,} {self._unit}"
        bar = "#" * int(share * _BAR)
        return f"{self._title} [{bar:<{_BAR}}] {share:4.0%}  {counted}  {left // 60}:{left % 60:02} left"
