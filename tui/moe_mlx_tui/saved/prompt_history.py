"""What was sent before, between sessions: a JSON string a line, the latest last."""

from __future__ import annotations

import json
from pathlib import Path

from moe_mlx.system.whole_files import write_whole

KEPT = 500


class PromptHistory:
    """A cursor over earlier prompts. A file that cannot be read or written costs the history and nothing else."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries: list[str] = []
        if path is not None:
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError):
                lines = []
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, str):
                    self.entries.append(entry)
        self._place = len(self.entries)

    @property
    def at_end(self) -> bool:
        """Whether the cursor stands on what is being typed."""
        return self._place >= len(self.entries)

    def older(self) -> str | None:
        """Goes back one entry; None at the oldest."""
        if self._place == 0:
            return None
        self._place -= 1
        return self.entries[self._place]

    def newer(self) -> str | None:
        """Comes forward one entry; None once it is past the latest."""
        self._place = min(len(self.entries), self._place + 1)
        return None if self.at_end else self.entries[self._place]

    def add(self, text: str) -> None:
        """Notes what was sent, and moves to the end."""
        if text and (not self.entries or self.entries[-1] != text):
            self.entries = [*self.entries, text][-KEPT:]
            if self.path is not None:
                rows = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.entries)
                try:
                    write_whole(self.path, rows, private=True)
                except OSError:
                    self.path = None
        self._place = len(self.entries)
