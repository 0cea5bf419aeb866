"""Small files, whole or not at all: written beside their place, handed to the drive, then renamed into it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Yields a file that takes the place of `path` when the block ends, and vanishes when it fails.

    Args:
        path: Where it is to lie; its folder is made if needed.
        private: Whether only its user may read it, and its folder where that is made.

    Raises:
        OSError: it cannot be written; what lay there before stands.
    """
    path.parent.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
    mode = 0o600 if private else 0o666  # less what the user's umask takes
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
        put_in_place(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def write_whole(path: Path, text: str, *, private: bool = False) -> None:
    """Replaces a file by `text`, in UTF-8; arguments and errors as for `whole_file`."""
    with whole_file(path, private=private) as file:
        file.write(text.encode())


def put_in_place(made: Path, path: Path) -> None:
    """Hands a finished file to the drive and gives it its name, on the same file system.

    Raises:
        OSError: from the operating system.
    """
    fd = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    made.replace(path)
