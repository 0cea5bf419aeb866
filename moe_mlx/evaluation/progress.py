"""One line of progress on standard error, for terminals only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Shows which setting is under way and how far it is.

    Args:
        stages: How many settings there are in all.
        stream: Where to draw; silent unless it is a terminal.
    """

    def __init__(self, stages: int, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream.isatty()
        self._stages, self._stage = stages, 0
        self._begun = self._drawn = time.monotonic()

    def stage(self, label: str, total: int, unit: str, *, first: bool = True) -> Callable[[int], None]:
        """Begins a part of a setting and returns what is to be called with the number done.

        Args:
            label: The setting.
            total: Of this part.
            unit: "tokens" or "tasks".
            first: Whether this is the first part of its setting.
        """
        self._stage += first

        def tick(done: int) -> None:
            now = time.monotonic()
            if self._shown and (now - self._drawn >= 0.2 or done == total):
                self._drawn = now
                minutes, seconds = divmod(int(now - self._begun), 60)
                place = f"[{self._stage}/{self._stages}] {label}"
                self._stream.write(f"\r\x1b[K{place}: {done:,} of {total:,} {unit}, {minutes}:{seconds:02}")
                self._stream.flush()

        return tick

    def finish(self) -> None:
        """Clears the line."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
