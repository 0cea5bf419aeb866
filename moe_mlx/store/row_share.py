"""A machine's share of every expert: some row blocks of a store, read as if they were the whole experts of a model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from moe_mlx.errors import UsageError
from moe_mlx.store.access import Access, scratch_buffer
from moe_mlx.store.held_rows import in_words
from moe_mlx.store.parts import ExpertLayout
from moe_mlx.store.source import ExpertSource
from moe_mlx.store.spec import ByteRange, ExpertLayer
from moe_mlx.store.store import StoreSource


class RowShare(ExpertSource):
    """Rows of a store's experts. Every tensor has its own output rows cut alike: the same share of each.

    Each part of a share is one read, checked block by block. No digest covers a share as a whole, so `digest` is None.

    Args:
        store: A store with row blocks. It is closed with its share.
        blocks: Consecutive row blocks of all its experts.

    Attributes:
        blocks: The row blocks.

    Raises:
        UsageError: The store has no such row blocks.
    """

    blocks: range

    def __init__(self, store: StoreSource, blocks: range) -> None:
        if store.bits:
            raise UsageError(
                f"{store.root}: its experts have bits of their own, and machines do not share rows of such. Take a "
                "store of `moe-mlx convert --row-blocks N` without --bits-per-weight."
            )
        for layout in store.layouts:
            if layout.row_blocks == 1 or not 0 <= blocks.start < blocks.stop <= layout.row_blocks or blocks.step != 1:
                raise UsageError(
                    f"{store.root}: its experts are in {layout.row_blocks} row blocks, so no share of them is "
                    f"{blocks.start} to {blocks.stop - 1}. `moe-mlx convert --row-blocks N` cuts them."
                )
        held = store.held_rows
        if held is not None and not (held.start <= blocks.start and blocks.stop <= held.stop):
            raise UsageError(
                f"{store.root}: {in_words(held)} are here, and {in_words(blocks)} are asked for: give every rank the "
                "--split that the store was shared out by"
            )
        self.store, self.blocks = store, blocks
        self.root, self.config, self.in_place = store.root, store.config, False
        self.expert_names, self.resident_shards = store.expert_names, store.resident_shards
        self.resident_nbytes = store.resident_nbytes
        self.verify = store.verify
        self._take_layers()

    def _take_layers(self) -> None:
        self.layouts = self.store.layouts
        self.layers = tuple(_share(layout, self.blocks) for layout in self.store.layouts)
        self.experts_nbytes = sum(layer.nbytes for layer in self.layers)
        self.scratch_nbytes = max(layer.expert_nbytes for layer in self.layers)

    def keep_layers(self, indices: Sequence[int]) -> None:
        """Leaves the share, and its store, with some of their layers."""
        self.store.keep_layers(indices)
        self._take_layers()

    def byte_ranges(self, index: int, expert: int) -> tuple[ByteRange, ...]:
        """Returns one range a part."""
        (whole,) = self.store.byte_ranges(index, expert)
        runs = self.layouts[index].runs(blocks=self.blocks)
        return tuple(ByteRange(whole.path, whole.offset + run.offset, run.nbytes) for run in runs)

    def file_nbytes(self, index: int, expert: int) -> int | None:
        """Returns the bytes of a whole expert's file."""
        return self.store.file_nbytes(index, expert)

    def part_digests(self, index: int, expert: int) -> tuple[str, ...]:
        """Returns the digests of what a share reads: by part, by row block."""
        every, blocks = self.store.part_digests(index, expert), self.layouts[index].row_blocks
        return tuple(every[part * blocks + block] for part in range(len(every) // blocks) for block in self.blocks)

    def opened(self, index: int, expert: int, number: int = 0) -> AbstractContextManager[int]:
        """Yields a descriptor of an expert's file."""
        return self.store.opened(index, expert)

    def digest(self, index: int, expert: int) -> str | None:
        """Returns None: what covers a share is its blocks' digests, which are checked as it is read."""
        return None

    def _read(self, index: int, expert: int, buffers: Sequence[memoryview]) -> None:
        from moe_mlx.store.rearrange import fill

        layout = self.layouts[index]
        data = scratch_buffer(self.layers[index].expert_nbytes)
        self.store.verify = self.verify
        self.store.read_parts(index, expert, 0, len(layout.parts), data, self.blocks)
        fill(layout, data, buffers, self.blocks)

    def switch_access(self, access: Access) -> None:
        """Reads another way from now on; not while reads are under way."""
        self.access = access
        self.store.switch_access(access)

    def _forget(self, index: int, expert: int) -> None:
        """Does nothing: the store forgets what it could not read."""

    def _close_idle(self) -> None:
        """Does nothing: descriptors are the store's."""

    def drop_cached(self) -> None:
        """Closes idle descriptors and drops cached pages of every expert, of other shares too."""
        self.store.drop_cached()

    def close(self) -> None:
        """Closes the store."""
        self.store.close()


def _share(layout: ExpertLayout, blocks: range) -> ExpertLayer:
    """Returns a layer whose experts have only the rows of some blocks."""
    tensors = tuple(
        replace(spec, shape=(spec.shape[0] * len(blocks) // layout.row_blocks, *spec.shape[1:]))
        for spec in layout.layer.tensors
    )
    return replace(layout.layer, tensors=tensors)
