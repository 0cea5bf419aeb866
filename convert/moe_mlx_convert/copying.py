"""Copies byte ranges into files of a store: a buffer's worth at a time, digested on the way, durable before named."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from moe_mlx.store import digest
from moe_mlx.store.durable import Fs, close, read_whole, write_whole
from moe_mlx.store.parts import ExpertLayout
from moe_mlx_convert.errors import ConvertError, DiffersError, failed
from moe_mlx_convert.plan import Target
from moe_mlx_convert.sources import Sources

if TYPE_CHECKING:
    from moe_mlx_convert.rearranging import Rearranger

#: One read and one write; each thread owns one such buffer (two while comparing).
BUFFER_NBYTES = 4 << 20
#: Files written before they are synced and renamed together; bounds open descriptors and unsynced bytes.
MOST_FILES = 16
MOST_NBYTES = 64 << 20
SUFFIX = ".tmp"


def temporary(path: Path) -> Path:
    """Returns the name under which a file is written until it is whole and synced."""
    return path.with_name(path.name + SUFFIX)


class Copier:
    """Writes, checks and compares targets of one store; used by several threads at once.

    Args:
        fs: File operations.
        folder: The unfinished store.
        sources: The checkpoint's files.

    Attributes:
        stopping: Set, it ends copies under way at their next buffer: a shard may take minutes.
    """

    def __init__(self, fs: Fs, folder: Path, sources: Sources) -> None:
        self.fs = fs
        self.folder = folder
        self.sources = sources
        self.stopping = threading.Event()
        self._own = threading.local()

    @cached_property
    def rearranger(self) -> Rearranger:
        """What rearranges experts; NumPy is imported where one has to be."""
        from moe_mlx_convert import rearranging

        return rearranging.Rearranger(self.fs, self.sources, self._go_on)

    def batches(self, targets: Sequence[Target]) -> Iterator[list[Target]]:
        """Groups files of one folder, in order, into batches that are synced together."""
        batch: list[Target] = []
        nbytes = 0
        for target in targets:
            other = batch and Path(batch[-1].name).parent != Path(target.name).parent
            if batch and (other or len(batch) == MOST_FILES or nbytes + target.nbytes > MOST_NBYTES):
                yield batch
                batch, nbytes = [], 0
            batch.append(target)
            nbytes += target.nbytes
        if batch:
            yield batch

    def peak_array_nbytes(self) -> int:
        """Returns the most memory that arrays took: none here."""
        return 0

    def write_batch(self, targets: Sequence[Target]) -> dict[str, str]:
        """Writes files of one folder: all of them under temporary names, then synced, renamed.

        Returns:
            Each file's digest by name.

        Raises:
            ConvertError: When an operation fails; files not yet renamed stay temporary.
        """
        digests: dict[str, str] = {}
        fds: list[int] = []
        path = self.folder / targets[0].name
        try:
            try:
                for target in targets:
                    path = self.folder / target.name
                    fds.append(self.fs.create(temporary(path)))
                    digests[target.name] = self._write(target, fds[-1])
                for fd in fds:
                    self.fs.sync(fd)
                self.fs.flush_drive(fds[-1])
            finally:
                for fd in fds:
                    close(self.fs, fd)
        except OSError as error:
            raise failed("writing", path, error) from error
        self._name(targets)
        return digests

    def _name(self, targets: Sequence[Target]) -> None:
        """Renames synced temporary files of one folder, and syncs the folder."""
        path = self.folder / targets[0].name
        try:
            for target in targets:
                path = self.folder / target.name
                self.fs.rename(temporary(path), path)
            self.fs.sync_folder(path.parent)
        except OSError as error:
            raise failed("renaming", path, error) from error

    def _write(self, target: Target, fd: int) -> str:
        """Writes one file's bytes and returns their digest."""
        prefix = target.prefix()
        running = digest.new()
        if target.digests_prefix:
            running.update(prefix)
        if prefix:
            write_whole(self.fs, fd, memoryview(prefix), 0)
        offset = len(prefix)
        if target.layout is not None:
            return self._write_rearranged(target, target.layout, fd, offset)
        for chunk in self._chunks(target):
            running.update(chunk)
            write_whole(self.fs, fd, chunk, offset)
            offset += chunk.nbytes
        if offset != target.nbytes:
            raise ConvertError(f"{self.folder / target.name}: {offset} bytes were planned as {target.nbytes}.")
        return self._expected(target, running.hexdigest())

    def _expected(self, target: Target, found: str) -> str:
        """Returns a digest of the source's bytes unless it should have been another one."""
        if target.expected is not None and found != target.expected:
            raise ConvertError(
                f"{target.ranges()[0].path}: digest is {found}, the manifest of its store says {target.expected}. The "
                "store is damaged: `moe-mlx verify` names every such file. Convert the checkpoint anew."
            )
        return found

    def _write_rearranged(self, target: Target, layout: ExpertLayout, fd: int, offset: int) -> str:
        """Writes an expert's data in their new order, and returns its tensors' digest and those of its parts."""
        data, digests = self.rearranger.laid(target, layout)
        self._expected(target, digests.split(" ")[0])
        if offset + data.nbytes != target.nbytes:
            raise ConvertError(
                f"{self.folder / target.name}: {offset + data.nbytes} bytes were planned as {target.nbytes}."
            )
        for begin in range(0, data.nbytes, BUFFER_NBYTES):
            self._go_on()
            write_whole(self.fs, fd, data[begin : begin + BUFFER_NBYTES], offset + begin)
        return digests

    def _go_on(self) -> None:
        if self.stopping.is_set():
            raise ConvertError("stopped")  # of no interest: what stopped it is told

    def _chunks(self, target: Target) -> Iterator[memoryview]:
        """Yields the source's bytes of a target, as full buffers: small ranges are gathered into one write."""
        buffer, filled = self._buffer("source"), 0
        for span in target.ranges():
            done = 0
            while done < span.nbytes:
                self._go_on()
                n = min(span.nbytes - done, buffer.nbytes - filled)
                self.sources.read(span.path, buffer[filled : filled + n], span.offset + done)
                done += n
                filled += n
                if filled == buffer.nbytes:
                    yield buffer
                    filled = 0
        if filled:
            yield buffer[:filled]

    def digest_of(self, target: Target) -> str | None:
        """Reads a written file again and returns its digest; None if it is missing, of another length or prefix."""
        return self._digest_at(target, self.folder / target.name)

    def _digest_at(self, target: Target, path: Path) -> str | None:
        try:
            if path.is_symlink() or not path.is_file() or path.stat().st_size != target.nbytes:
                return None
            fd = self.fs.open(path)
            try:
                prefix = target.prefix()
                found = bytearray(len(prefix))
                if read_whole(self.fs, fd, memoryview(found), 0) != len(prefix) or found != prefix:
                    return None
                if target.layout is not None:
                    return self.rearranger.digests(target.layout, fd, len(prefix))
                running = digest.new()
                if target.digests_prefix:
                    running.update(prefix)
                buffer, offset = self._buffer("written"), len(prefix)
                while n := read_whole(self.fs, fd, buffer, offset):
                    running.update(buffer[:n])
                    offset += n
                return running.hexdigest()
            finally:
                close(self.fs, fd)
        except OSError as error:
            raise failed("re-reading", path, error) from error

    def compare_batch(self, targets: Sequence[Target]) -> list[DiffersError]:
        """Compares written files, byte for byte, with their source, and returns what is wrong with which."""
        differ = []
        for target in targets:
            try:
                self.compare(target)
            except DiffersError as error:
                differ.append(error)
        return differ

    def compare(self, target: Target) -> None:
        """Compares a written file, byte for byte, with its source.

        Raises:
            DiffersError: Naming the file and the place where they differ.
            ConvertError: One of them cannot be read.
        """
        path = self.folder / target.name
        try:
            fd = self.fs.open(path)
            try:
                self.fs.forget(fd)
                prefix = target.prefix()
                found = bytearray(len(prefix))
                if read_whole(self.fs, fd, memoryview(found), 0) != len(prefix) or found != prefix:
                    raise DiffersError(target.name, f"{path}: its header is not what was written.")
                offset, written = len(prefix), self._buffer("written")
                if target.layout is not None:
                    self.rearranger.compare(target, target.layout, fd, path, offset)
                    return
                for chunk in self._chunks(target):
                    here = written[: chunk.nbytes]
                    if read_whole(self.fs, fd, here, offset) != chunk.nbytes or here != chunk:
                        raise DiffersError(
                            target.name, f"{path}: differs from the source within {chunk.nbytes} bytes at {offset}."
                        )
                    offset += chunk.nbytes
            finally:
                close(self.fs, fd)
        except OSError as error:
            raise failed("comparing", path, error) from error

    def _buffer(self, role: str) -> memoryview:
        buffer: memoryview | None = getattr(self._own, role, None)
        if buffer is None:
            buffer = memoryview(mmap.mmap(-1, BUFFER_NBYTES))
            setattr(self._own, role, buffer)
        return buffer
