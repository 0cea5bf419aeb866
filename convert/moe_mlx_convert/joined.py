"""A store of version 2 as a source: its experts, joined again, read as if their tensors lay one behind the other."""

from __future__ import annotations

import threading
from pathlib import Path

from moe_mlx.store.durable import Fs
from moe_mlx.store.layout import StoredLayer
from moe_mlx.store.store import StoreSource
from moe_mlx_convert.sources import PassingSources


class JoinedSources(PassingSources):
    """Files of a store; of an expert in parts, offsets are those of its joined tensors. Used by several threads.

    Args:
        fs: File operations.
        source: The store.
    """

    def __init__(self, fs: Fs, source: StoreSource) -> None:
        super().__init__(fs)
        layers = source.manifest.layers
        self._layers = {source.root / stored.directory: stored for stored in layers if stored.layout.rearranged}
        self._own = threading.local()

    def read(self, path: Path, buffer: memoryview, offset: int) -> None:
        """Fills a buffer; errors as of `Sources`.

        An expert is read from the disk whenever it is read from its beginning, so that comparing reads it anew.
        """
        stored = self._layers.get(path.parent)
        if stored is None:
            super().read(path, buffer, offset)
            return
        if offset == 0 or getattr(self._own, "path", None) != path:
            self._own.path = None
            self._own.joined = self._join(path, stored)
            self._own.path = path
        buffer[:] = self._own.joined[offset : offset + buffer.nbytes]

    def _join(self, path: Path, stored: StoredLayer) -> memoryview:
        from moe_mlx.store.rearrange import fill  # NumPy is imported where an expert has to be joined

        nbytes = stored.layer.expert_nbytes
        data, joined, tensors, begin = memoryview(bytearray(nbytes)), memoryview(bytearray(nbytes)), [], 0
        super().read(path, data, stored.data_offset)
        for spec in stored.layer.tensors:
            tensors.append(joined[begin : begin + spec.nbytes])
            begin += spec.nbytes
        fill(stored.layout, data, tensors)
        return joined
