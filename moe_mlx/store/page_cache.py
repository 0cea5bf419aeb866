"""What the system's page cache holds of a model's experts: memory that nobody's plan counts."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from moe_mlx.store.files import LIBC
from moe_mlx.store.source import ExpertSource

#: Experts looked at; beyond it every n-th is, which keeps the answer within milliseconds for any model.
MOST_EXPERTS = 512
#: mincore's answer for a page, with what other systems than Linux add to it, to whether the page is there.
_INCORE = bytes(answer & 1 for answer in range(256))
LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


@dataclass(frozen=True, slots=True)
class PageCacheUse:
    """How much of some experts' bytes the page cache holds.

    Attributes:
        nbytes: Bytes of them that it holds; scaled up where not all experts were looked at.
        of_nbytes: Bytes of them in all.
        estimate: Whether only a sample was looked at.
    """

    nbytes: int
    of_nbytes: int
    estimate: bool

    @property
    def share(self) -> float:
        """Held as a share of all; 0 where there is nothing."""
        return self.nbytes / self.of_nbytes if self.of_nbytes else 0.0


def page_cache_use(source: ExpertSource, experts: Iterable[tuple[int, int]] | None = None) -> PageCacheUse | None:
    """Asks what the page cache holds of experts, without reading any of them.

    Args:
        source: A store or checkpoint.
        experts: Pairs of MoE ordinal and expert; all of them by default.

    Returns:
        None where the system does not tell: files of somebody else, or one that cannot be opened.
    """
    if experts is None:
        experts = ((layer.index, expert) for layer in source.layers for expert in range(layer.experts))
    named = list(experts)
    step = -(-len(named) // MOST_EXPERTS) or 1
    held = looked_at = 0
    for index, expert in named[::step]:
        for number, run in enumerate(source.byte_ranges(index, expert)):
            try:
                with source.opened(index, expert, number) as fd:
                    found = cached_nbytes(fd, run.offset, run.nbytes)
            except OSError:
                found = None
            if found is None:
                return None
            held += found
            looked_at += run.nbytes
    total = sum(source.stored_nbytes(index, expert) for index, expert in named)
    return PageCacheUse(round(held * total / looked_at) if looked_at else 0, total, step > 1)


def cached_nbytes(fd: int, offset: int, nbytes: int) -> int | None:
    """Returns how many bytes of a range of an open file are in the page cache.

    Returns:
        None where the system does not tell: Linux says so only to the owner of a file and to who may write it.

    Raises:
        OSError: From the operating system.
    """
    if not _may_ask(fd):
        return None
    start, stop = offset // mmap.PAGESIZE * mmap.PAGESIZE, min(offset + nbytes, os.fstat(fd).st_size)
    if stop <= offset:
        return 0
    pages = ctypes.create_string_buffer(-(-(stop - start) // mmap.PAGESIZE))
    address = LIBC.mmap(None, stop - start, mmap.PROT_READ, mmap.MAP_SHARED, fd, start)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        if LIBC.mincore(address, stop - start, pages) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
    finally:
        LIBC.munmap(address, stop - start)
    in_core = pages.raw.translate(_INCORE)
    outside = in_core[0] * (offset - start) + in_core[-1] * (start + len(in_core) * mmap.PAGESIZE - stop)
    return in_core.count(1) * mmap.PAGESIZE - outside


def _may_ask(fd: int) -> bool:
    """Whether mincore tells the truth: where it may not, Linux says that every page is there."""
    if sys.platform != "linux" or os.geteuid() == 0 or os.fstat(fd).st_uid == os.geteuid():
        return True
    try:
        return os.access(f"/proc/self/fd/{fd}", os.W_OK)
    except OSError:
        return False
