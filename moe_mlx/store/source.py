"""The one way to read an expert: its bytes into buffers, whole and checked, or an error that names it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from moe_mlx.errors import ExpertReadError
from moe_mlx.store import digest
from moe_mlx.store.spec import ByteRange, ExpertLayer

#: Buffers that one preadv takes on every POSIX system (_XOPEN_IOV_MAX).
MOST_BUFFERS = 16


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
        while left and n >= left[0].nbytes:
            n -= left.pop(0).nbytes
        if n:
            left[0] = left[0][n:]
    return done


class ExpertSource(ABC):
    """The routed experts of one model on disk. Reading is thread-safe; many readers may share a source.

    Attributes:
        root: The store's or checkpoint's folder.
        layers: MoE layers in the order of execution.
        in_place: True for an MLX checkpoint (no digests, several ranges an expert), False for a store.
        config: The model's `config.json`.
        expert_names: Tensors of the resident shards that hold routed experts, for a loader to skip; none in a store.
        resident_shards: safetensors files with the weights that are not routed experts (in place: with all weights).
        resident_nbytes: Bytes of every weight that is not a routed expert.
        experts_nbytes: Bytes of every routed expert.
        verify: Whether `read_into` checks digests, where there are any.
    """

    root: Path
    layers: tuple[ExpertLayer, ...]
    in_place: bool
    config: Mapping[str, Any]
    expert_names: frozenset[str]
    resident_shards: tuple[Path, ...]
    resident_nbytes: int
    experts_nbytes: int
    verify: bool

    @abstractmethod
    def byte_ranges(self, index: int, expert: int) -> tuple[ByteRange, ...]:
        """Returns where an expert's bytes lie: one range in a store, one per tensor in place."""

    @abstractmethod
    def digest(self, index: int, expert: int) -> str | None:
        """Returns the XXH3-128 digest (32 hexadecimal digits) of an expert's bytes; None in place."""

    @abstractmethod
    def _read(self, index: int, expert: int, buffers: Sequence[memoryview]) -> None:
        """Fills byte buffers or raises ExpertReadError."""

    @abstractmethod
    def _forget(self, index: int, expert: int) -> None:
        """Closes what is held open of an expert, so that the next read opens its files anew."""

    @abstractmethod
    def drop_cached(self) -> None:
        """Closes idle descriptors and asks the system to drop cached pages of the experts, for cold measurements."""

    @abstractmethod
    def close(self) -> None:
        """Closes every descriptor; those in use after the reads that use them."""

    def read_into(self, index: int, expert: int, buffers: Sequence[memoryview]) -> int:
        """Reads one expert into buffers and checks its digest, unless there is none or `verify` is off.

        Args:
            index: MoE ordinal of the layer.
            expert: Number of the expert in its layer.
            buffers: One writable, contiguous buffer per tensor, in the order of `layers[index].tensors`.

        Returns:
            Bytes read: the whole expert.

        Raises:
            ExpertReadError: Anything missing, short, unreadable or corrupt; the buffers then hold no expert.
            ValueError: Buffers that do not fit the layer's tensors: a mistake of the caller.
        """
        layer = self.layers[index]
        if not 0 <= expert < layer.experts:
            raise ValueError(f"layer {layer.layer} has experts 0 to {layer.experts - 1}, not {expert}")
        views = [b.cast("B") if b.format != "B" or b.ndim != 1 else b for b in buffers]
        if [v.nbytes for v in views] != [t.nbytes for t in layer.tensors]:
            raise ValueError(f"buffers of {[v.nbytes for v in views]} bytes for {layer.path}: {list(layer.tensors)}")
        try:
            self._read_whole(index, expert, views)
        except ExpertReadError:
            # The descriptor may be of a file that was damaged and has been replaced since: look once at what is there.
            self._forget(index, expert)
            try:
                self._read_whole(index, expert, views)
            except ExpertReadError:
                self._forget(index, expert)
                raise
        return layer.expert_nbytes

    def _read_whole(self, index: int, expert: int, views: Sequence[memoryview]) -> None:
        self._read(index, expert, views)
        expected = self.digest(index, expert) if self.verify else None
        if expected is not None and (found := digest.of(views)) != expected:
            path = self.byte_ranges(index, expert)[0].path
            reason = f"digest is {found}, the manifest says {expected}"
            raise ExpertReadError(self.layers[index].layer, expert, path, reason)

    def __enter__(self) -> ExpertSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
    """Asks the system to forget cached pages of a range (`nbytes` 0: to the end); nothing where it cannot."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, offset, nbytes, os.POSIX_FADV_DONTNEED)
