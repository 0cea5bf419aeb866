"""How experts come off the disk: through the page cache, or past it into slot memory or an aligned bounce buffer."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moe_mlx.errors import UsageError
from moe_mlx.store.files import MOST_BUFFERS, advance, drop_pages, fill, open_regular

if TYPE_CHECKING:
    from moe_mlx.store.source import ExpertSource

CACHED, DIRECT, DROPPED = "cached", "direct", "dropped"
#: What can be asked for.
IOS = (CACHED, DIRECT)
#: One bounce buffer: large enough that a disk's queue stays busy while a piece is copied on.
BOUNCE_BYTES = 2 << 20
#: Taken where the system does not say what it wants: what every disk's blocks divide.
_DEFAULT_ALIGNMENT = 4096
_O_DIRECT = getattr(os, "O_DIRECT", 0)
_F_NOCACHE = getattr(fcntl, "F_NOCACHE", 0)
_STATX_DIOALIGN, _AT_EMPTY_PATH = 0x2000, 0x1000

_of_thread = threading.local()


@dataclass(frozen=True, slots=True)
class Access:
    """A way to read, and what it asks of memory and offsets.

    Attributes:
        way: "cached"; "direct": past the page cache, with O_DIRECT on Linux, F_NOCACHE on macOS (where a page that is
            cached already is still taken from there); "dropped": through the page cache, which is asked to forget the
            bytes after each read, where direct reads cannot be had.
        reason: Why that way, in a few words.
        memory: Bytes that addresses have to be multiples of.
        block: Bytes that offsets and lengths have to be multiples of; 1 where reads need no alignment.
    """

    way: str = CACHED
    reason: str = "as asked"
    memory: int = 1
    block: int = 1

    @property
    def bounce_nbytes(self) -> int:
        """Bytes of one reader's bounce buffer; 0 where reads need no alignment."""
        return BOUNCE_BYTES if self.block > 1 else 0

    def open(self, path: Path | str, flags: int = 0, dir_fd: int | None = None) -> int:
        """Opens a regular file for reading this way.

        Raises:
            OSError: As from `open_regular`; with EOPNOTSUPP for a file that refuses direct reads.
        """
        if self.way != DIRECT:
            return open_regular(path, flags, dir_fd)
        try:
            fd = open_regular(path, flags | _O_DIRECT, dir_fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            os.close(open_regular(path, flags, dir_fd))  # anything but a regular file is told as that
            raise _refused(path) from None
        if _F_NOCACHE:
            try:
                fcntl.fcntl(fd, _F_NOCACHE, 1)
            except OSError:
                os.close(fd)
                raise
        return fd

    def fill(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        """Reads into byte buffers, one after the other, from `offset`, until they are full or the file ends.

        Args:
            fd: From `open`.
            buffers: Writable bytes at any addresses; what is aligned is read straight into them.
            offset: Any offset.

        Returns:
            Bytes read; fewer than the buffers hold only at the end of the file.

        Raises:
            OSError: From the operating system.
        """
        if self.block == 1:
            done = fill(fd, buffers, offset)
            if self.way == DROPPED and done:
                drop_pages(fd, offset, done)
            return done
        done, left = 0, [b for b in buffers if b.nbytes]
        try:
            while left and self._aligned(left, offset + done):
                if (n := os.preadv(fd, left[:MOST_BUFFERS], offset + done)) == 0:
                    return done
                done += n
                advance(left, n)
            return done + self._through_bounce(fd, left, offset + done)
        except OSError as error:
            raise (_refused(fd) if error.errno == errno.EINVAL else error) from None

    def _aligned(self, buffers: Sequence[memoryview], offset: int) -> bool:
        if offset % self.block or any(buffer.nbytes % self.block for buffer in buffers):
            return False
        return all(_address(buffer) % self.memory == 0 for buffer in buffers)

    def _through_bounce(self, fd: int, left: list[memoryview], offset: int) -> int:
        done, wanted, bounce = 0, sum(buffer.nbytes for buffer in left), bounce_buffer()
        start = _address(bounce)
        while done < wanted:
            skip = (offset + done) % self.block
            blocks = -(-(skip + wanted - done) // self.block)
            asked = min(bounce.nbytes, blocks * self.block)
            # Where a file ends within a block, the read ends there as well.
            got = min(os.preadv(fd, [bounce[:asked]], offset + done - skip) - skip, wanted - done)
            if got <= 0:
                break
            done += got
            at = start + skip
            while got:
                n = min(got, left[0].nbytes)
                ctypes.memmove(_address(left[0]), at, n)  # without the GIL, unlike an assignment of views
                advance(left, n)
                at, got = at + n, got - n
        return done


def _address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _refused(file: Path | str | int) -> OSError:
    return OSError(errno.EOPNOTSUPP, "direct reads are refused", None if isinstance(file, int) else str(file))


def bounce_buffer() -> memoryview:
    """Returns the calling thread's bounce buffer: `BOUNCE_BYTES` that begin at a page."""
    if not hasattr(_of_thread, "bounce"):
        # Private: shared pages would be one buffer for two processes after a fork.
        _of_thread.bounce = memoryview(mmap.mmap(-1, BOUNCE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    buffer: memoryview = _of_thread.bounce
    return buffer


def direct_alignment(fd: int) -> tuple[int, int] | None:
    """Returns what direct reads of an open file ask for: multiples of (address, offset and length), in bytes.

    Returns:
        4,096 for both where the system does not say; None where it says that there are no direct reads.
    """
    described = ctypes.create_string_buffer(256)
    statx = getattr(ctypes.CDLL(None), "statx", None)
    if statx is None or statx(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, described) != 0:
        return _DEFAULT_ALIGNMENT, _DEFAULT_ALIGNMENT
    mask, memory, offset = (int.from_bytes(described.raw[at : at + 4], "little") for at in (0, 152, 156))
    if not mask & _STATX_DIOALIGN:
        return _DEFAULT_ALIGNMENT, _DEFAULT_ALIGNMENT
    return (memory, offset) if memory and offset else None


def use_io(source: ExpertSource, io: str) -> Access:
    """Makes a source read as asked, or as nearly as its file system allows; not while it is being read.

    Args:
        source: A store or checkpoint.
        io: One of `IOS`.

    Returns:
        How it reads from now on: `source.access`.

    Raises:
        UsageError: there is no such way.
    """
    if io not in IOS:
        raise UsageError(f"unknown io {io!r}: choose one of {', '.join(IOS)}")
    access = Access()
    if io == DIRECT:
        access = Access(DIRECT) if _F_NOCACHE else _probe(source)
    source.switch_access(access)
    return access


def _probe(source: ExpertSource) -> Access:
    """Tries a direct read in every layer's file (a model may lie on several disks) and joins what they ask for."""
    memory = block = 1
    instead = DROPPED if hasattr(os, "posix_fadvise") else CACHED
    if not _O_DIRECT:
        return Access(instead, "this system has no direct reads")
    source.switch_access(Access(DIRECT))
    tried: set[Path] = set()
    for layer in source.layers:
        for number, run in enumerate(source.byte_ranges(layer.index, 0)):
            if run.path in tried:
                continue
            tried.add(run.path)
            try:
                with source.opened(layer.index, 0, number) as fd:
                    asked = direct_alignment(fd)
                    if asked is None or asked[0] > mmap.PAGESIZE or BOUNCE_BYTES % asked[1]:
                        return Access(instead, f"no direct reads of {run.path.name} by its file system")
                    memory, block = max(memory, asked[0]), max(block, asked[1])
                    if not _accepts(fd, run.offset // asked[1] * asked[1], asked[1]):
                        return Access(instead, f"its file system refuses direct reads of {run.path.name}")
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:
                    return Access(instead, f"its file system refuses direct reads of {run.path.name}")
                continue  # a file that cannot be read is told when its experts are
    return Access(DIRECT, "as asked", memory, block)


def _accepts(fd: int, offset: int, nbytes: int) -> bool:
    """Reads a block; EINVAL is what says that direct reads are not for this file."""
    try:
        os.preadv(fd, [bounce_buffer()[:nbytes]], offset)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True
