"""A store on disk, opened for reading: one file per expert, one read per expert, every byte under a digest."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from moe_mlx.errors import ExpertReadError, StoreCorruptError, StoreMissingError
from moe_mlx.store import header
from moe_mlx.store import manifest as manifests
from moe_mlx.store.checkpoint import CheckpointSource
from moe_mlx.store.descriptors import Descriptors
from moe_mlx.store.families import expert_count, family_of, top_k
from moe_mlx.store.files import drop_pages, open_regular
from moe_mlx.store.hub_snapshot import real_store
from moe_mlx.store.json_files import read_config
from moe_mlx.store.layout import Manifest, expert_file
from moe_mlx.store.source import ExpertSource
from moe_mlx.store.spec import ByteRange


def _reason(error: OSError) -> str:
    """Says why a store's file could not be opened or read; a link in its place comes back as ELOOP or ENOTDIR."""
    if error.errno == errno.ELOOP:
        return "a symbolic link, which a store may not hold"
    if error.errno == errno.ENOENT:
        return "the file is missing"
    return error.strerror or str(error)


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
        self.layers = tuple(stored.layer for stored in manifest.layers)
        self.resident_shards = tuple(root / f.name for f in manifest.resident)
        self.resident_nbytes = manifest.resident_nbytes
        self.experts_nbytes = manifest.experts_nbytes
        self._root_fd = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        self._folders: Descriptors[int] = Descriptors(self._open_folder, share=8)
        self._files: Descriptors[tuple[int, int]] = Descriptors(self._open_expert)

    @classmethod
    def open(cls, root: Path, *, verify: bool = True) -> StoreSource:
        """Opens a store by its manifest, and checks everything that mlx-lm is going to read of it but the bytes."""
        manifest = read_manifest(root)
        resident_nbytes = sum(_resident_nbytes(root / stored.name, stored.nbytes) for stored in manifest.resident)
        if resident_nbytes != manifest.resident_nbytes:
            raise StoreCorruptError(
                f"{root}: resident weights of {resident_nbytes} bytes, {manifests.NAME} says "
                f"{manifest.resident_nbytes}; convert the model again."
            )
        _check_folder(root, {stored.name for stored in manifest.resident})
        config = read_config(root)
        _check_config(root, manifest, config)
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
        return (ByteRange(path, stored.data_offset, stored.layer.expert_nbytes),)

    def opened(self, index: int, expert: int, number: int = 0) -> AbstractContextManager[int]:
        """Yields a descriptor of an expert's file."""
        return self._files.using((index, expert))

    def digest(self, index: int, expert: int) -> str | None:
        """Returns the digest of an expert's data from the manifest."""
        return self.manifest.layers[index].digests[expert]

    def _read(self, index: int, expert: int, buffers: Sequence[memoryview]) -> None:
        stored = self.manifest.layers[index]
        path = self.byte_ranges(index, expert)[0].path
        try:
            with self._files.using((index, expert)) as fd:
                nbytes = os.fstat(fd).st_size
                if nbytes != stored.file_nbytes:
                    reason = f"the file has {nbytes} bytes, {stored.file_nbytes} are expected"
                    raise ExpertReadError(stored.layer.layer, expert, path, reason)
                got = self.access.fill(fd, buffers, stored.data_offset)
        except OSError as error:
            raise ExpertReadError(stored.layer.layer, expert, path, _reason(error)) from error
        if got != stored.layer.expert_nbytes:
            reason = f"the data ends after {got} of {stored.layer.expert_nbytes} bytes"
            raise ExpertReadError(stored.layer.layer, expert, path, reason)

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


def _resident_nbytes(path: Path, file_nbytes: int) -> int:
    """Checks a resident shard's length and header, and returns the bytes of its tensors."""
    _check_file(path, file_nbytes)
    try:
        fd = open_regular(path, os.O_NOFOLLOW)
        try:
            return sum(entry.nbytes for entry in header.read(fd, path).entries.values())
        finally:
            os.close(fd)
    except OSError as error:
        raise StoreCorruptError(f"{path}: {_reason(error)}; convert the model again.") from None


def _check_file(path: Path, nbytes: int) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise StoreMissingError(f"{path}: missing from the store; convert the model again.") from None
    if path.is_symlink():
        raise StoreCorruptError(f"{path}: a symbolic link, which a store may not hold; convert the model again.")
    if found.st_size != nbytes:
        raise StoreCorruptError(f"{path}: {found.st_size} bytes, the manifest says {nbytes}; convert the model again.")


def _check_folder(root: Path, resident: Set[str]) -> None:
    """Refuses what mlx-lm or transformers would read though no store holds it: links, pipes, weights of others."""
    folders = [root]  # transformers looks into folders too: additional_chat_templates
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                path = Path(entry.path)
                if entry.is_symlink():
                    raise StoreCorruptError(f"{path}: a symbolic link, which a store may not hold; remove it.")
                if path.parent == root and path.match("model*.safetensors") and entry.name not in resident:
                    raise StoreCorruptError(f"{path}: weights that are not in {manifests.NAME}; remove them.")
                if entry.is_dir():
                    if path != root / "experts":  # each of whose files is checked when it is read
                        folders.append(path)
                elif not entry.is_file():
                    raise StoreCorruptError(f"{path}: not a regular file; remove it.")


def _check_config(root: Path, manifest: Manifest, config: Mapping[str, Any]) -> None:
    """Checks that config.json, which mlx-lm builds the model from, counts the experts that the store holds."""
    path = root / "config.json"
    family = family_of(config, root)
    declared = expert_count(config, family, root)
    for stored in manifest.layers:
        layer = stored.layer
        if declared != layer.experts:
            raise StoreCorruptError(
                f"{path}: declares {declared} experts, the store holds {layer.experts} ({layer.path}). Convert again."
            )
        if (chosen := top_k(config, family, layer.layer, root)) > layer.top_k:
            raise StoreCorruptError(
                f"{path}: chooses {chosen} experts a token, the store was made for {layer.top_k}. Convert again."
            )


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
        raise StoreCorruptError(f"{path}: {_reason(error)}.") from None
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
