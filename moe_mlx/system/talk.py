"""Progress on standard error: one line that rewrites itself, for terminals only."""

from __future__ import annotations

import sys


class Talk:
    """What a long measurement says while it runs."""

    def __init__(self) -> None:
        self._width = 0
        self._shown = sys.stderr.isatty()

    def progress(self, line: str) -> None:
        """Shows what is under way in place of what was."""
        if self._shown:
            print(f"\r{line[:110]:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = max(self._width, min(110, len(line)))

    def say(self, line: str) -> None:
        """Prints a remark that stays."""
        self.clear()
        print(line, file=sys.stderr)

    def clear(self) -> None:
        """Takes the progress line away."""
        if self._shown and self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)
            self._width = 0
