"""Experts whose tensors do not follow each other in their files: laid out whole in memory, joined again to compare."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from moe_mlx.store import digest
from moe_mlx.store.durable import Fs, read_whole
from moe_mlx.store.parts import ExpertLayout
from moe_mlx.store.rearrange import digests_of, fill_one, pieces_of
from moe_mlx_convert.errors import DiffersError
from moe_mlx_convert.plan import Target
from moe_mlx_convert.sources import Sources

#: One read: what may stop a conversion is asked before each.
BUFFER_NBYTES = 4 << 20


class Rearranger:
    """Lays experts out and joins them; used by several threads, each with room for an expert and two of its tensors.

    Args:
        fs: File operations.
        sources: The files that are converted.
        go_on: Raises where the conversion is to stop.
    """

    def __init__(self, fs: Fs, sources: Sources, go_on: Callable[[], None]) -> None:
        self._fs, self._sources, self._go_on = fs, sources, go_on
        self._own = threading.local()

    def laid(self, target: Target, layout: ExpertLayout) -> tuple[memoryview, str]:
        """Returns an expert's data as its file is to hold them, with the digests of its tensors and of the parts.

        The data are good until this thread's next call.
        """
        data, running = self._room("file", layout.nbytes), digest.new()
        for number, tensor in self._tensors(target):
            running.update(tensor)
            for at, piece in pieces_of(layout, number, tensor):
                data[at : at + piece.nbytes] = piece
        return data, " ".join((running.hexdigest(), *digests_of(layout, data)))

    def digests(self, layout: ExpertLayout, fd: int, offset: int) -> str:
        """Returns the digests of a written expert: of its tensors, joined, then of its parts."""
        data, running = self.data(layout, fd, offset), digest.new()
        for number, spec in enumerate(layout.layer.tensors):
            tensor = self._room("tensor", spec.nbytes)
            fill_one(layout, data, number, tensor)
            running.update(tensor)
        return " ".join((running.hexdigest(), *digests_of(layout, data)))

    def data(self, layout: ExpertLayout, fd: int, offset: int) -> memoryview:
        """Reads a written expert's data; what a short file lacks is zeros. Good until this thread's next call."""
        data = self._room("file", layout.nbytes)
        got = read_whole(self._fs, fd, data, offset)
        data[got:] = bytes(data.nbytes - got)
        return data

    def compare(self, target: Target, layout: ExpertLayout, fd: int, path: Path, offset: int) -> None:
        """Joins what was written and compares every tensor with the source's.

        Raises:
            DiffersError: Naming the file and the tensor.
        """
        data = self.data(layout, fd, offset)
        for number, tensor in self._tensors(target):
            joined = self._room("joined", tensor.nbytes)
            fill_one(layout, data, number, joined)
            if joined != tensor:
                name = layout.layer.tensors[number].name
                raise DiffersError(target.name, f"{path}: {name}, joined, differs from the source.")

    def _tensors(self, target: Target) -> Iterator[tuple[int, memoryview]]:
        """Yields an expert's tensors as the source has them; each is good until the next one."""
        for number, span in enumerate(target.ranges()):
            tensor = self._room("tensor", span.nbytes)
            for begin in range(0, span.nbytes, BUFFER_NBYTES):
                self._go_on()
                self._sources.read(span.path, tensor[begin : begin + BUFFER_NBYTES], span.offset + begin)
            yield number, tensor

    def _room(self, role: str, nbytes: int) -> memoryview:
        """Returns as many bytes of this thread's, the same ones for a role as before where those are enough."""
        room: memoryview | None = getattr(self._own, role, None)
        if room is None or room.nbytes < nbytes:
            room = memoryview(mmap.mmap(-1, max(1, nbytes)))
            setattr(self._own, role, room)
        return room[:nbytes]
