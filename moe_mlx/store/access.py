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

from moe_mlx.store.files import MOST_BUFFERS, advance, drop_pages, fill, open_regular

CACHED, DIRECT, DROPPED = "cached", "direct", "dropped"
#: What can be asked for.
IOS = (CACHED, DIRECT)
#: One bounce buffer: large enough that a disk's queue stays busy while a piece is copied on.
BOUNCE_BYTES = 2 << 20
O_DIRECT = getattr(os, "O_DIRECT", 0)
F_NOCACHE = getattr(fcntl, "F_NOCACHE", 0)

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
            fd = open_regular(path, flags | O_DIRECT, dir_fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            os.close(open_regular(path, flags, dir_fd))  # anything but a regular file is told as that
            raise _refused(path) from None
        if F_NOCACHE:
            try:
                fcntl.fcntl(fd, F_NOCACHE, 1)
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


def scratch_buffer(nbytes: int) -> memoryview:
    """Returns `nbytes` of the calling thread's memory for bytes that a slot takes rearranged; from a page on."""
    found: memoryview | None = getattr(_of_thread, "scratch", None)
    if found is None or found.nbytes < nbytes:
        found = memoryview(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        _of_thread.scratch = found
    return found[:nbytes]
