"""The terminal as a file that may go away: what is written after a hang-up is lost, and nobody fails of it."""

from __future__ import annotations

import contextlib
from typing import IO, Any


class UntilHangUp:
    """Stands before a terminal's file. Textual's writer would end at the first error, and all others wait for it."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Writes, as long as there is a terminal."""
        with contextlib.suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes, as long as there is a terminal."""
        with contextlib.suppress(OSError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
