"""Plain reads of regular files: whole, past interruptions, and without waiting for what is no file."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from moe_mlx.errors import UsageError

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
MS_INVALIDATE = 2  # <sys/mman.h>, on macOS and Linux alike

#: Buffers that one preadv takes on every POSIX system (_XOPEN_IOV_MAX).
MOST_BUFFERS = 16


def expanded(path: Path | str) -> Path:
    """Returns a path with `~` and `~user` replaced.

    Raises:
        UsageError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"{path}: there is no such home folder; write the path out.") from None


def openable(path: Path) -> Path:
    """Returns the path of a model, or of something of it, as it is.

    Raises:
        UsageError: It is no UTF-8, and neither MLX nor the tokenizers open it.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path}: the name is no UTF-8, and MLX opens nothing there; give it another.") from None
    return path


def advance(left: list[memoryview], n: int) -> None:
    """Takes the first `n` bytes off a list of byte buffers."""
    while left and n >= left[0].nbytes:
        n -= left.pop(0).nbytes
    if n:
        left[0] = left[0][n:]


def fill(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Reads into byte buffers, one after the other, from `offset`, until they are full or the file ends.

    Returns:
        Bytes read; fewer than the buffers hold only at the end of the file.

    Raises:
        OSError: From the operating system.
    """
    done, left = 0, [b for b in buffers if b.nbytes]
    while left:
        n = os.preadv(fd, left[:MOST_BUFFERS], offset + done)
        if n == 0:
            break
        done += n
        advance(left, n)
    return done


def open_regular(path: Path | str, flags: int = 0, dir_fd: int | None = None) -> int:
    """Opens a regular file for reading; a pipe or device in its place is refused instead of waited for.

    Raises:
        OSError: As from `os.open`; with EINVAL for anything but a regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def drop_pages(fd: int, offset: int = 0, nbytes: int = 0) -> None:
    """Asks the system to forget the cached pages that a range touches (`nbytes` 0: to the end of the file).

    Linux takes advice on a descriptor; macOS forgets what a shared mapping is told to invalidate. Nothing happens where
    neither can be asked.
    """
    start = offset // mmap.PAGESIZE * mmap.PAGESIZE
    stop = -(-(offset + nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE if nbytes else start
    with contextlib.suppress(OSError):
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_DONTNEED)
        else:
            size = os.fstat(fd).st_size
            invalidate(fd, start, min(stop, size) - start if nbytes else size - start)


def invalidate(fd: int, offset: int, nbytes: int) -> None:
    """Invalidates the cached pages of a range of an open file, which begins on a page.

    Raises:
        OSError: From the operating system.
    """
    if nbytes <= 0:
        return
    address = LIBC.mmap(None, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        if LIBC.msync(address, nbytes, MS_INVALIDATE) != 0:
            raise OSError(ctypes.get_errno(), "msync")
    finally:
        LIBC.munmap(address, nbytes)
