"""The one way to read an expert: its bytes into buffers, whole and checked, or an error that names it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from moe_mlx.errors import ExpertReadError
from moe_mlx.store import digest
from moe_mlx.store.access import Access
from moe_mlx.store.parts import ExpertLayout
from moe_mlx.store.spec import ByteRange, ExpertLayer


class ExpertSource(ABC):
    """The routed experts of one model on disk. Reading is thread-safe; many readers may share a source.

    Attributes:
        root: The store's or checkpoint's folder.
        layers: MoE layers in the order of execution.
        in_place: True for an MLX checkpoint (no digests, several ranges an expert), False for a store.
        config: The model's `config.json`.
        expert_names: Tensors of the resident shards that hold routed experts, for a loader to skip; none in a store.
        resident_shards: safetensors files with the weights that are not routed experts (in place: with all weights).
        resident_nbytes: Bytes in its shards of every weight that is not a routed expert; a checkpoint may hold
            tensors among them that its model does not take (`planning.taken`).
        experts_nbytes: Bytes of every routed expert.
        verify: Whether `read_into` checks digests, where there are any.
        access: How files are read: through the page cache unless `use_io` chose otherwise.
        layouts: How experts lie in a store's files, by MoE ordinal; empty in place. Where experts have bits of their
            own, how those lie that have all of the model's; see `layout_of`.
        blocks: The row blocks of them that are read; None where whole experts are.
        bits: Of each expert's codes in its file, by MoE ordinal; empty where all have those of the model.
        scratch_nbytes: Memory that each reading thread takes for experts whose tensors do not lie one behind the other.
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
    access: Access = Access()
    layouts: tuple[ExpertLayout, ...] = ()
    blocks: range | None = None
    bits: tuple[tuple[int, ...], ...] = ()
    scratch_nbytes: int = 0

    @abstractmethod
    def byte_ranges(self, index: int, expert: int) -> tuple[ByteRange, ...]:
        """Returns where an expert's bytes lie: one range in a store, one per tensor in place."""

    def layout_of(self, index: int, expert: int) -> ExpertLayout | None:
        """Returns how an expert lies in its file; None in place."""
        return self.layouts[index] if self.layouts else None

    def narrower(self, index: int) -> Mapping[int, ExpertLayout]:
        """Returns how experts of a layer that have fewer bits in their files lie there, by their bits."""
        return {}

    def stored_nbytes(self, index: int, expert: int) -> int:
        """Returns the bytes that are read for an expert: those in its file, which may be narrower than in memory."""
        return self.layers[index].expert_nbytes

    @abstractmethod
    def file_nbytes(self, index: int, expert: int) -> int | None:
        """Returns how large the file of an expert has to be; None in place."""

    @abstractmethod
    def opened(self, index: int, expert: int, number: int = 0) -> AbstractContextManager[int]:
        """Yields a descriptor of the file of an expert's range `number`, opened as `access` says.

        Raises:
            OSError: It cannot be opened.
        """

    @abstractmethod
    def digest(self, index: int, expert: int) -> str | None:
        """Returns the XXH3-128 digest (32 hexadecimal digits) of an expert's bytes; None in place."""

    @abstractmethod
    def keep_layers(self, indices: Sequence[int]) -> None:
        """Leaves the source with some of its layers, counted anew; their files alone are ever opened from then on.

        Args:
            indices: MoE ordinals, ascending. Before anything was read.
        """

    def absent_layers(self) -> list[str]:
        """Returns the folders of layers that are not there; none where experts lie in shards."""
        return []

    #: Row blocks of every expert that are here, of a store of which one machine has no others; None where all are.
    held_rows: range | None = None

    @abstractmethod
    def _read(self, index: int, expert: int, buffers: Sequence[memoryview]) -> None:
        """Fills byte buffers or raises ExpertReadError."""

    @abstractmethod
    def _forget(self, index: int, expert: int) -> None:
        """Closes what is held open of an expert, so that the next read opens its files anew."""

    @abstractmethod
    def _close_idle(self) -> None:
        """Closes idle descriptors, so that files are opened anew."""

    def switch_access(self, access: Access) -> None:
        """Reads another way from now on; not while reads are under way. `use_io` chooses one that works."""
        self.access = access
        self._close_idle()

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
            Bytes read: `stored_nbytes`, the whole expert.

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
        self._twice(index, expert, lambda: self._read_whole(index, expert, views))
        return self.stored_nbytes(index, expert)

    def _twice(self, index: int, expert: int, read: Callable[[], None]) -> None:
        """Reads, and once more where that failed."""
        try:
            read()
        except ExpertReadError:
            # The descriptor may be of a file that was damaged and has been replaced since: look once at what is there.
            self._forget(index, expert)
            try:
                read()
            except ExpertReadError:
                self._forget(index, expert)
                raise

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
