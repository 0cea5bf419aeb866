"""A verb of the command line in a process of its own: its rows of progress, its result, and a way to stop it.

Downloads and conversions take minutes and threads of their own; killed, a process leaves what can be gone on with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended.

    Attributes:
        code: Its exit code.
        result: The JSON object that it printed; empty where it failed.
        said: The last line it said on standard error that was no progress.
    """

    code: int
    result: dict[str, Any]
    said: str


class VerbProcess:
    """Runs `moe-mlx WORDS --json --progress json`. `stop` may be called from any thread, before the start too."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = (*words, "--json", "--progress", "json")
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, on_row: Callable[[dict[str, Any]], None]) -> Ended:
        """Runs it to its end; blocks. `on_row` gets each row of progress, in this thread."""
        command = [sys.executable, "-m", "moe_mlx", *self.words]
        with self._lock:
            if self._stopped:
                return Ended(130, {}, "stopped")
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        process, said = self._process, ""
        out, err = process.stdout, process.stderr
        assert out is not None and err is not None
        printed: list[str] = []
        reader = threading.Thread(target=lambda: printed.append(out.read()), daemon=True)
        reader.start()
        for line in err:
            row = _row(line)
            if row is None:
                said = line.strip() or said
            else:
                on_row(row)
        code = process.wait()
        reader.join()
        return Ended(code, (_row("".join(printed)) or {}) if code == 0 else {}, said)

    def stop(self) -> None:
        """Asks it to end; what it has written stays."""
        with self._lock:
            self._stopped = True
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
