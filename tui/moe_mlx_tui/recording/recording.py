"""A recording: one JSON object a line, the first says what it is, each other one is a snapshot.

A row holds what changed since the row before; every `KEY_EVERY`th holds everything, so that seeking need not decode
from the start. A recording cut short (a crash, a full disk) plays as far as it goes.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from pathlib import Path
from typing import Any, TextIO

from moe_mlx.errors import StoreCorruptError, StoreMissingError
from moe_mlx_tui.engine.snapshot import Snapshot
from moe_mlx_tui.recording.codec import VERSION, decode, encode

KEY_EVERY = 64
_MARK = "moe-mlx-recording"


class Recorder:
    """Writes snapshots as they come. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open("w", encoding="utf-8")
        except OSError as error:
            raise StoreMissingError(
                f"cannot record to {path}: {error.strerror}; name a file that can be written"
            ) from error
        self.path, self.failure, self._rows = path, "", 0
        self._before: Snapshot | None = None
        self._write({_MARK: VERSION})

    def _write(self, row: dict[str, Any]) -> None:
        json.dump(row, self._file, ensure_ascii=False, separators=(",", ":"))
        self._file.write("\n")

    def add(self, snapshot: Snapshot) -> None:
        """Writes one snapshot; a failure ends the recording, not the conversation, and is kept in `failure`."""
        if self.failure or self._file.closed:
            return
        try:
            self._write(encode(snapshot, None if self._rows % KEY_EVERY == 0 else self._before))
            self._rows += 1
            self._before = snapshot
            if not snapshot.busy:
                self._file.flush()
        except OSError as error:
            self.failure = f"recording stopped: {error.strerror or error}; what was written so far can be replayed"

    def close(self) -> None:
        """Ends the file."""
        try:
            self._file.close()
        except OSError as error:
            self.failure = self.failure or f"recording is incomplete: {error.strerror or error}"


class Recording:
    """A recording, read."""

    def __init__(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise StoreMissingError(
                f"no recording at {path}: {error.strerror}; make one with `moe-mlx chat --record FILE`"
            ) from error
        except UnicodeDecodeError as error:
            raise StoreCorruptError(f"{path} is no recording of moe-mlx: {error.reason}") from error
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self.times: list[float] = []
        self._check(lines[0] if lines else "")
        now = 0.0
        for line in lines[1:]:
            try:
                row = json.loads(line)
            except ValueError:
                break  # cut short: what stands before is whole
            if not isinstance(row, dict) or not (self._rows or row.get("key")):
                break
            now = float(row.get("time", 0.0 if row.get("key") else now))
            self._rows.append(row)
            self.times.append(now)
        if not self._rows:
            raise StoreCorruptError(f"{path} holds no snapshot: record again with `moe-mlx chat --record FILE`")
        self._place, self._held = -1, Snapshot()

    def _check(self, line: str) -> None:
        try:
            head = json.loads(line)
            version = head[_MARK]
        except (ValueError, KeyError, TypeError):
            raise StoreCorruptError(f"{self.path} is no recording of moe-mlx") from None
        if version != VERSION:
            raise StoreCorruptError(
                f"{self.path} is a recording of version {version}; this moe-mlx reads version {VERSION}"
            )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def seconds(self) -> float:
        """How long it plays."""
        return self.times[-1] - self.times[0]

    def index_at(self, seconds: float) -> int:
        """Returns the row that is shown `seconds` after the first."""
        return max(0, min(len(self) - 1, bisect_right(self.times, self.times[0] + seconds) - 1))

    def ends_of_turns(self, until: int) -> list[int]:
        """Returns the last row of each turn that begins at or before row `until`, itself included as the last."""
        ends: list[int] = []
        turn = ""
        for index, row in enumerate(self._rows[: until + 1]):
            new = row.get("turn", "" if row.get("key") else turn)
            if new != turn and turn:
                ends.append(index - 1)
            turn = new
        return [*ends, until] if turn else []

    def at(self, index: int) -> Snapshot:
        """Returns snapshot `index`."""
        if index < self._place or self._place < 0:
            self._place = index
            while self._place and not self._rows[self._place].get("key"):
                self._place -= 1
            self._held = decode(self._rows[self._place], None)
        while self._place < index:
            self._place += 1
            self._held = decode(self._rows[self._place], self._held)
        return self._held
