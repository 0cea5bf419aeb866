"""Chooses how a model's files can be read: asked for once, when it is opened, and tried before it is promised."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path

from moe_mlx.store.access import BOUNCE_BYTES, CACHED, DIRECT, DROPPED, F_NOCACHE, IOS, O_DIRECT, Access, bounce_buffer
from moe_mlx.store.source import ExpertSource
from moe_mlx.system.given import check_choice

#: Taken where the system does not say what it wants: what every disk's blocks divide.
_DEFAULT_ALIGNMENT = 4096
_STATX_DIOALIGN, _AT_EMPTY_PATH = 0x2000, 0x1000


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
    check_choice("io", io, IOS)
    access = Access()
    if io == DIRECT:
        access = Access(DIRECT) if F_NOCACHE else _probe(source)
    source.switch_access(access)
    return access


def _probe(source: ExpertSource) -> Access:
    """Tries a direct read in every layer's file (a model may lie on several disks) and joins what they ask for."""
    memory = block = 1
    instead = DROPPED if hasattr(os, "posix_fadvise") else CACHED
    if not O_DIRECT:
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
