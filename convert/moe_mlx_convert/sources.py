"""The files that are converted, open for reading."""

from __future__ import annotations

import threading
from pathlib import Path

from moe_mlx.store.durable import Fs, close, read_whole
from moe_mlx_convert.errors import ConvertError, failed


class Sources:
    """Descriptors of the source's files, opened once and kept: a checkpoint has at most a few hundred."""

    def __init__(self, fs: Fs) -> None:
        self._fs = fs
        self._fds: dict[Path, int] = {}
        self._lock = threading.Lock()

    def read(self, path: Path, buffer: memoryview, offset: int) -> None:
        """Fills a buffer from a source file.

        Raises:
            ConvertError: Unreadable, or shorter than it was.
        """
        try:
            with self._lock:
                fd = self._fds.get(path)
                if fd is None:
                    fd = self._fds[path] = self._fs.open(path)
            got = read_whole(self._fs, fd, buffer, offset)
        except OSError as error:
            raise failed("reading the checkpoint", path, error) from error
        if got != buffer.nbytes:
            raise ConvertError(
                f"{path}: ends {buffer.nbytes - got} bytes early; the checkpoint changed. Fetch it again."
            )

    def forget(self, path: Path) -> None:
        """Closes a file that nothing more is read from."""
        with self._lock:
            fd = self._fds.pop(path, None)
        if fd is not None:
            close(self._fs, fd)

    def close(self) -> None:
        """Closes every descriptor."""
        for fd in self._fds.values():
            close(self._fs, fd)
        self._fds.clear()


class PassingSources(Sources):
    """A source of more files than there are descriptors: each is open while it is read."""

    def read(self, path: Path, buffer: memoryview, offset: int) -> None:
        """Fills a buffer from a source file; errors as of `Sources`."""
        try:
            fd = self._fs.open(path)
            try:
                got = read_whole(self._fs, fd, buffer, offset)
            finally:
                close(self._fs, fd)
        except OSError as error:
            raise failed("reading the store", path, error) from error
        if got != buffer.nbytes:
            raise ConvertError(
                f"{path}: ends {buffer.nbytes - got} bytes early; `moe-mlx verify` names what is damaged."
            )
