"""A store on disk, opened for reading: one file per expert, one read per expert, every byte under a digest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from moe_mlx.errors import ExpertReadError, StoreCorruptError, StoreMissingError
from moe_mlx.store import digest, store_checks
from moe_mlx.store import manifest as manifests
from moe_mlx.store.access import scratch_buffer
from moe_mlx.store.checkpoint import CheckpointSource
from moe_mlx.store.descriptors import Descriptors
from moe_mlx.store.files import drop_pages, open_regular
from moe_mlx.store.held_rows import read_held
from moe_mlx.store.hub_snapshot import real_store
from moe_mlx.store.json_files import read_config
from moe_mlx.store.layout import Manifest, expert_file
from moe_mlx.store.parts import ExpertLayout
from moe_mlx.store.source import ExpertSource
from moe_mlx.store.spec import ByteRange
from moe_mlx.store.store_checks import reason_of


class StoreSource(ExpertSource):
    """Experts of a store. Files are opened relative to their layer's folder and never through symbolic links.

    Made by `open`; without it, for `verify`, nothing but the manifest has been looked at and `config` is empty.
    """

    in_place = False
    expert_names: frozenset[str] = frozenset()

    def __init__(self, root: Path, manifest: Manifest, *, verify: bool = True) -> None:
        self.root = root
        self.manifest = manifest
        self.verify = verify
        self.config = {}
        self.resident_shards = tuple(root / f.name for f in manifest.resident)
        self.resident_nbytes = manifest.resident_nbytes
        self.experts_nbytes = manifest.experts_nbytes
        self._take_layouts()
        self.held_rows = read_held(root, min((layout.row_blocks for layout in self.layouts), default=1))
        rearranged = [m for m in self.layouts if m.rearranged or self.bits]
        self.scratch_nbytes = max((m.layer.expert_nbytes for m in rearranged), default=0)
        self._root_fd = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        self._folders: Descriptors[int] = Descriptors(self._open_folder, share=8)
        self._files: Descriptors[tuple[int, int]] = Descriptors(self._open_expert)

    def _take_layouts(self) -> None:
        layers = self.manifest.layers
        self.layers = tuple(
            replace(stored.layer, stored_nbytes=stored.stored_nbytes) if stored.bits else stored.layer
            for stored in layers
        )
        self.layouts = tuple(stored.layout for stored in layers)
        self.bits = tuple(stored.bits for stored in layers) if self.manifest.fewer else ()

    @classmethod
    def open(cls, root: Path, *, verify: bool = True) -> StoreSource:
        """Opens a store by its manifest, and checks everything that mlx-lm is going to read of it but the bytes."""
        manifest = read_manifest(root)
        resident_nbytes = sum(
            store_checks.resident_nbytes(root / stored.name, stored.nbytes) for stored in manifest.resident
        )
        if resident_nbytes != manifest.resident_nbytes:
            raise StoreCorruptError(
                f"{root}: resident weights of {resident_nbytes} bytes, {manifests.NAME} says "
                f"{manifest.resident_nbytes}; convert the model again."
            )
        store_checks.check_folder(root, {stored.name for stored in manifest.resident})
        config = read_config(root)
        store_checks.check_config(root, manifest, config)
        source = cls(root, manifest, verify=verify)
        source.config = config
        return source

    def _open_folder(self, index: int) -> int:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
        experts = os.open("experts", flags, dir_fd=self._root_fd)
        try:
            return os.open(Path(self.manifest.layers[index].directory).name, flags, dir_fd=experts)
        finally:
            os.close(experts)

    def _open_expert(self, key: tuple[int, int]) -> int:
        index, expert = key
        with self._folders.using(index) as folder:
            return self.access.open(expert_file(expert), os.O_NOFOLLOW, dir_fd=folder)

    def byte_ranges(self, index: int, expert: int) -> tuple[ByteRange, ...]:
        """Returns the one range of an expert's data."""
        stored = self.manifest.layers[index]
        path = self.root / stored.directory / expert_file(expert)
        return (ByteRange(path, stored.data_offset, stored.layout_of(expert).nbytes),)

    def layout_of(self, index: int, expert: int) -> ExpertLayout:
        """Returns how an expert lies in its file."""
        return self.manifest.layers[index].layout_of(expert)

    def stored_nbytes(self, index: int, expert: int) -> int:
        """Returns the bytes of an expert in its file."""
        return self.layout_of(index, expert).nbytes

    def file_nbytes(self, index: int, expert: int) -> int | None:
        """Returns the bytes of an expert's file, header included."""
        return self.manifest.layers[index].file_nbytes(expert)

    def narrower(self, index: int) -> Mapping[int, ExpertLayout]:
        """Returns how experts of a layer that have fewer bits in their files lie there, by their bits."""
        return self.manifest.layers[index].narrower

    def opened(self, index: int, expert: int, number: int = 0) -> AbstractContextManager[int]:
        """Yields a descriptor of an expert's file."""
        return self._files.using((index, expert))

    def digest(self, index: int, expert: int) -> str | None:
        """Returns the digest of an expert's tensors from the manifest."""
        return self.manifest.layers[index].digests[expert]

    def part_digests(self, index: int, expert: int) -> tuple[str, ...]:
        """Returns the digests of an expert's file: by part, by row block."""
        return self.manifest.layers[index].digests_of(expert)

    def read_parts(
        self, index: int, expert: int, first: int, last: int, buffer: memoryview, blocks: range | None = None
    ) -> int:
        """Reads some parts of an expert as they lie in its file, and checks their digests unless `verify` is off.

        Args:
            index: MoE ordinal of the layer.
            expert: Number of the expert in its layer.
            first: The first part.
            last: The one after the last part.
            buffer: Writable bytes, as many as the parts have; filled in the order of `layouts[index].runs`.
            blocks: Consecutive row blocks; by default all.

        Returns:
            Bytes read.

        Raises:
            ExpertReadError: Anything missing, short, unreadable or corrupt; it names the part.
            ValueError: No such parts or blocks, or a buffer of another size: a mistake of the caller.
        """
        runs = self.layout_of(index, expert).runs(first, last, blocks)
        if (wanted := sum(run.nbytes for run in runs)) != buffer.nbytes:
            raise ValueError(f"a buffer of {buffer.nbytes} bytes for {wanted}")

        def read() -> None:
            begin = 0
            for run in runs:
                self._fill(index, expert, [buffer[begin : begin + run.nbytes]], run.offset)
                begin += run.nbytes
            if self.verify:
                self._check_parts(index, expert, range(first, last), buffer, blocks)

        self._twice(index, expert, read)
        return wanted

    def absent_layers(self) -> list[str]:
        """Returns the folders of layers that are not there: a machine of several may have its own alone."""
        return [stored.directory for stored in self.manifest.layers if not (self.root / stored.directory).is_dir()]

    def keep_layers(self, indices: Sequence[int]) -> None:
        """Leaves the store with some of its layers."""
        kept = (self.manifest.layers[index] for index in indices)
        layers = tuple(
            replace(one, layout=replace(one.layout, layer=replace(one.layer, index=place)))
            for place, one in enumerate(kept)
        )
        self.manifest = replace(self.manifest, layers=layers)
        self._take_layouts()
        self.experts_nbytes = self.manifest.experts_nbytes

    def _read(self, index: int, expert: int, buffers: Sequence[memoryview]) -> None:
        layout = self.layout_of(index, expert)
        if not layout.rearranged:
            return self._fill(index, expert, buffers, 0)
        from moe_mlx.store.rearrange import fill

        data = scratch_buffer(layout.nbytes)
        self._fill(index, expert, [data], 0)
        if self.verify:
            self._check_parts(index, expert, range(len(layout.parts)), data)
        fill(layout, data, buffers)
        return None

    def _fill(self, index: int, expert: int, buffers: Sequence[memoryview], offset: int) -> None:
        """Fills buffers with an expert's data from `offset` on."""
        stored = self.manifest.layers[index]
        path = self.byte_ranges(index, expert)[0].path
        wanted = sum(buffer.nbytes for buffer in buffers)
        try:
            with self._files.using((index, expert)) as fd:
                nbytes = os.fstat(fd).st_size
                if nbytes != (expected := stored.file_nbytes(expert)):
                    reason = f"the file has {nbytes} bytes, {expected} are expected"
                    raise ExpertReadError(stored.layer.layer, expert, path, reason)
                got = self.access.fill(fd, buffers, stored.data_offset + offset)
        except OSError as error:
            raise ExpertReadError(stored.layer.layer, expert, path, reason_of(error)) from error
        if got != wanted:
            reason = f"the data ends after {offset + got} of {stored.layout_of(expert).nbytes} bytes"
            raise ExpertReadError(stored.layer.layer, expert, path, reason)

    def _check_parts(
        self, index: int, expert: int, parts: range, data: memoryview, blocks: range | None = None
    ) -> None:
        layout, digests, begin = self.layout_of(index, expert), self.part_digests(index, expert), 0
        for number in parts:
            part = layout.parts[number]
            for block in blocks if blocks is not None else range(part.blocks):
                expected = digests[number * part.blocks + block]
                if (found := digest.of([data[begin : begin + part.block_nbytes]])) != expected:
                    where = part.name if part.blocks == 1 else f"{part.name}, row block {block}"
                    reason = f"part {where}: digest is {found}, the manifest says {expected}"
                    path = self.byte_ranges(index, expert)[0].path
                    raise ExpertReadError(layout.layer.layer, expert, path, reason)
                begin += part.block_nbytes

    def _forget(self, index: int, expert: int) -> None:
        self._files.forget((index, expert))
        self._folders.forget(index)

    def _close_idle(self) -> None:
        self._files.shrink()

    def drop_cached(self) -> None:
        """Closes idle descriptors and drops cached pages of every expert."""
        self._close_idle()
        for index, layer in enumerate(self.layers):
            for expert in range(layer.experts):
                with self.opened(index, expert) as fd:
                    drop_pages(fd)

    def close(self) -> None:
        """Closes every descriptor."""
        self._files.close()
        self._folders.close()
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1


def read_manifest(root: Path) -> Manifest:
    """Reads the manifest of the store at `root`.

    Raises:
        StoreMissingError: No store there, or one that was never finished.
        StoreCorruptError: A manifest that is damaged, or a link.
    """
    path = root / manifests.NAME
    if root.name.endswith(".partial"):
        raise StoreMissingError(f"{root}: an unfinished store. Run the same `moe-mlx convert` again to resume it.")
    try:
        fd = open_regular(path, os.O_NOFOLLOW)
    except FileNotFoundError:
        raise StoreMissingError(f"{root}: no {manifests.NAME}, so no store. Make one with `moe-mlx convert`.") from None
    except OSError as error:
        raise StoreCorruptError(f"{path}: {reason_of(error)}.") from None
    with os.fdopen(fd, "rb") as file:
        if os.fstat(fd).st_size > manifests.MAX_NBYTES:
            raise StoreCorruptError(f"{path}: larger than {manifests.MAX_NBYTES} bytes; this is no manifest.")
        return manifests.parse(file.read(), path)


def is_store(path: Path) -> bool:
    """True where a manifest lies, whole or not."""
    return os.path.lexists(path / manifests.NAME)


def open_source(path: Path | str, *, verify: bool = True) -> ExpertSource:
    """Opens a store, or an MLX checkpoint in place.

    Args:
        path: A folder.
        verify: Whether reads check digests; a checkpoint in place has none.

    Raises:
        StoreMissingError: Nothing there, or something incomplete.
        StoreCorruptError: Something that contradicts itself.
        UnsupportedModelError: A dense model, an unknown family, or experts that have to be converted first.
    """
    root = real_store(Path(path))
    if is_store(root):
        return StoreSource.open(root, verify=verify)
    return CheckpointSource.open(root)
