"""File operations that fail, fall short or are remembered, for the converter's seam `moe_mlx.store.durable.Fs`."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moe_mlx.store.durable import Fs

OPERATIONS = [name for name in vars(Fs) if not name.startswith("_")]
SHORT = -1


class CountingFs(Fs):
    """Numbers every operation and calls `meddle(number, name)` before it."""

    def __init__(self) -> None:
        self.count = 0

    def meddle(self, number: int, name: str) -> None:
        """Overridden by faults."""

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name not in OPERATIONS:
            return attribute

        def counted(*args: Any) -> Any:
            self.count += 1
            return self.call(self.count, name, attribute, args)

        return counted

    def call(self, number: int, name: str, operation: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        self.meddle(number, name)
        return operation(*args)


class FaultyFs(CountingFs):
    """Fails operation number `at`, and all later ones if `lasting`, with an errno, or makes it SHORT."""

    def __init__(self, at: int, fault: int, *, lasting: bool) -> None:
        super().__init__()
        self.at, self.fault, self.lasting = at, fault, lasting
        self.hit = False

    def call(self, number: int, name: str, operation: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if number < self.at or (number > self.at and not self.lasting):
            return operation(*args)
        if self.fault == SHORT:
            if name in ("read", "write"):
                fd, buffer, offset = args
                self.hit = True
                return operation(fd, buffer[: max(1, len(buffer) // 2)], offset)
            if name == "append":
                self.hit = True
                return operation(args[0], args[1][: max(1, len(args[1]) // 2)])
            return operation(*args)
        self.hit = True
        if name == "close":
            operation(*args)
        raise OSError(self.fault, os.strerror(self.fault))


class PowerLoss(BaseException):
    """The plug was pulled."""


class RecordingFs(CountingFs):
    """Remembers what has been synced, loses power before operation `at`, and can show the drive as it then is."""

    def __init__(self, root: Path, at: int) -> None:
        super().__init__()
        self.root, self.at = root, at
        self.contents: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}  # by the folder's inode: folders are renamed
        self._sync_names(root)

    def meddle(self, number: int, name: str) -> None:
        if number >= self.at and name != "close":
            raise PowerLoss

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.contents[os.fstat(fd).st_ino] = Path(f"/proc/self/fd/{fd}").read_bytes()

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self._sync_names(path)

    def _sync_names(self, folder: Path) -> None:
        self.names[folder.stat().st_ino] = {entry.name: entry.lstat().st_ino for entry in folder.iterdir()}

    def drive(self, path: Path, image: Path, *, names_kept: bool) -> None:
        """Copies what survives of the folder at `path` to `image`.

        Args:
            path: A folder under `root`.
            image: Where to make the image.
            names_kept: Whether names reach the drive without being synced, contents never do; else neither does.
        """
        image.mkdir(exist_ok=True)
        by_inode = {p.lstat().st_ino: p for p in self.root.rglob("*")}
        if names_kept:
            listed = {entry.name: entry.lstat().st_ino for entry in path.iterdir()}
        else:
            listed = self.names.get(path.stat().st_ino, {})
        for name, inode in listed.items():
            now = by_inode.get(inode)
            if now is not None and now.is_dir():
                self.drive(now, image / name, names_kept=names_kept)
            elif inode in self.contents:
                (image / name).write_bytes(self.contents[inode])
            else:
                length = now.stat().st_size if now is not None and names_kept else 0
                (image / name).write_bytes(b"\0" * length)


def fast_folder(default: Path) -> Path:
    """Returns a folder in memory where there is one: syncing it costs nothing."""
    shared = Path("/dev/shm")
    if shared.is_dir() and os.access(shared, os.W_OK):
        folder = shared / f"moe-mlx-{os.getpid()}-{default.name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder
    return default


ERRNOS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "short": SHORT}


class Meddler(CountingFs):
    """Changes the source in the middle of a conversion."""

    def __init__(self, at: int, change: object) -> None:
        super().__init__()
        self.at, self.change = at, change

    def meddle(self, number: int, name: str) -> None:
        if number == self.at:
            self.change()  # type: ignore[operator]
