"""The journal of a conversion under way: which files are finished, and with which digests.

It is a hint, not a promise: what it lists is read again and compared with its digest before a resumed conversion relies
on it, so a journal that a loss of power cut short or garbled costs time, never correctness.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from moe_mlx.store import digest
from moe_mlx.store.durable import Fs, close, read_whole
from moe_mlx_convert.errors import ConvertError, failed

#: Hidden, so that no file of a checkpoint that is copied along has this name.
NAME = ".journal.jsonl"
MAX_NBYTES = 512_000_000


class Journal:
    """Appends finished files, a line each, to `DST.partial/.journal.jsonl`.

    Args:
        fs: File operations.
        folder: The unfinished store.
        begun: What is converted: the plan's mark and the source's fingerprint; the journal's first line.
    """

    def __init__(self, fs: Fs, folder: Path, begun: Mapping[str, Any]) -> None:
        self._fs = fs
        self.path = folder / NAME
        self._lock = Lock()
        try:
            self._fd = fs.extend(self.path)
            try:
                self._line(begun)
            except OSError:
                self.close()
                raise
        except OSError as error:
            raise failed("starting the journal", self.path, error) from error

    def finished(self, files: Mapping[str, str]) -> None:
        """Records finished files and their digests."""
        try:
            self._line({"files": dict(files)})
        except OSError as error:
            raise failed("writing the journal", self.path, error) from error

    def _line(self, entry: Mapping[str, Any]) -> None:
        """Appends a line and hands it to the drive."""
        # A line begins with its own line feed, so that one torn by a crash spoils no other.
        line = b"\n" + json.dumps(entry).encode() + b"\n"
        with self._lock:
            while line:
                n = self._fs.append(self._fd, line)
                if n <= 0:
                    raise OSError(errno.EIO, "a write made no progress")
                line = line[n:]
            self._fs.sync(self._fd)

    def close(self) -> None:
        """Closes the file; what it holds is on the drive already."""
        close(self._fs, self._fd)


def read_journal(fs: Fs, folder: Path) -> tuple[Mapping[str, Any] | None, dict[str, str]]:
    """Reads a journal, leaving out lines that are torn.

    Returns:
        What was begun (None without a journal), and the digests of each file said to be finished.
    """
    path = folder / NAME
    try:
        fd = fs.open(path)
    except FileNotFoundError:
        return None, {}
    except OSError as error:
        raise failed("opening the journal", path, error) from error
    try:
        nbytes = path.stat().st_size
        if nbytes > MAX_NBYTES:
            raise ConvertError(f"{path}: {nbytes} bytes are no journal. Remove {folder} to start over.")
        text = bytearray(nbytes)
        read_whole(fs, fd, memoryview(text), 0)
    except OSError as error:
        raise failed("reading the journal", path, error) from error
    finally:
        close(fs, fd)
    begun: Mapping[str, Any] | None = None
    done: dict[str, str] = {}
    for line in bytes(text).splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(entry, dict):
            continue
        if begun is None and isinstance(entry.get("mark"), str) and isinstance(entry.get("fingerprint"), dict):
            begun = entry
        files = entry.get("files")
        if isinstance(files, dict):
            done |= {name: text for name, text in files.items() if digest.are_digests(text)}
    return begun, done
