"""An MLX checkpoint read in place: experts are rows of its own shards. No digests, several reads an expert."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moe_mlx.errors import ExpertReadError, StoreCorruptError, StoreMissingError
from moe_mlx.store import header
from moe_mlx.store.descriptors import Descriptors
from moe_mlx.store.files import drop_pages, open_regular
from moe_mlx.store.json_files import read_config, read_json
from moe_mlx.store.locate import Layout, Located, locate
from moe_mlx.store.source import ExpertSource
from moe_mlx.store.spec import ByteRange

INDEX = "model.safetensors.index.json"
_NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")


@dataclass(frozen=True, slots=True)
class Shards:
    """Every tensor of a checkpoint, from its shards' headers; sources may be symbolic links (hub snapshots)."""

    root: Path
    files: tuple[Path, ...]
    headers: Mapping[Path, header.Header]
    tensors: Mapping[str, Located]
    config: Mapping[str, Any]


def read_shards(root: Path) -> Shards:
    """Reads every header of a checkpoint, as mlx-lm finds them: `model*.safetensors`.

    Raises:
        StoreMissingError: No folder, no config, no shard, or one that the others or the index name.
        StoreCorruptError: A bad header, a tensor in two shards, an index that names a tensor no shard has, a pipe.
    """
    if not root.is_dir():
        raise StoreMissingError(f"{root}: no such folder. Name the folder of a store or of an MLX checkpoint.")
    for path in root.glob("*.*"):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise StoreCorruptError(f"{path}: not a regular file; whoever reads it would wait forever. Remove it.")
    config = read_config(root)
    files = tuple(sorted(root.glob("model*.safetensors")))
    index = _index(root)
    _complete(root, files, index)
    headers: dict[Path, header.Header] = {}
    tensors: dict[str, Located] = {}
    for path in files:
        try:
            fd = open_regular(path)
        except FileNotFoundError:
            raise StoreMissingError(f"{path}: the link points nowhere; fetch the model again.") from None
        except OSError as error:
            raise StoreCorruptError(f"{path}: cannot be opened ({error.strerror}).") from None
        try:
            headers[path] = described = header.read(fd, path)
        except OSError as error:
            raise StoreCorruptError(f"{path}: cannot be read ({error.strerror}).") from None
        finally:
            os.close(fd)
        for name, entry in described.entries.items():
            if name in tensors:
                raise StoreCorruptError(
                    f"{path}: tensor {name!r} is in {tensors[name].shard.name} too; remove one shard."
                )
            tensors[name] = Located(entry, path, described.data_offset + entry.begin)
    for name, file in index.items():
        if name not in tensors:
            raise StoreCorruptError(f"{root / INDEX}: tensor {name!r} is in no shard ({file}); fetch the model again.")
    return Shards(root, files, headers, tensors, config)


def _index(root: Path) -> Mapping[str, str]:
    path = root / INDEX
    if not path.exists():
        return {}
    listed = read_json(path)
    weight_map = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise StoreCorruptError(f"{path}: weight_map does not map tensors to shards. Fetch the model again.")
    return weight_map


def _complete(root: Path, files: Sequence[Path], index: Mapping[str, str]) -> None:
    """Checks that every shard is there that the index, or the numbering of the others, names."""
    names = {file.name for file in files}
    for tensor, shard in index.items():
        if shard not in names:
            raise StoreMissingError(f"{root / shard}: shard is missing; it holds {tensor!r}. Fetch the model again.")
    if not files:
        raise StoreMissingError(f"{root}: no model*.safetensors there. Name the folder of a store or MLX checkpoint.")
    for file in files:
        if (match := _NUMBERED.fullmatch(file.name)) is None:
            continue
        for number in range(1, int(match[3]) + 1):
            name = f"{match[1]}-{number:05}-of-{match[3]}.safetensors"
            if name not in names:
                raise StoreMissingError(
                    f"{root / name}: shard is missing; {file.name} is there. Fetch the model again."
                )


class CheckpointSource(ExpertSource):
    """Experts gathered from an unconverted MLX checkpoint."""

    in_place = True

    def __init__(self, shards: Shards, layout: Layout) -> None:
        self.root = shards.root
        self.config = shards.config
        self.verify = False
        self._located = layout.layers
        self.layers = tuple(located.layer for located in layout.layers)
        self.expert_names = layout.expert_names
        self.resident_shards = shards.files
        self.experts_nbytes = sum(layer.nbytes for layer in self.layers)
        self.resident_nbytes = sum(t.entry.nbytes for t in shards.tensors.values()) - self.experts_nbytes
        self._files: Descriptors[Path] = Descriptors(self._open_shard)

    @classmethod
    def open(cls, root: Path) -> CheckpointSource:
        """Opens a checkpoint whose experts are already stacked as mlx-lm runs them."""
        shards = read_shards(root)
        return cls(shards, locate(shards.tensors, shards.config, root))

    def byte_ranges(self, index: int, expert: int) -> tuple[ByteRange, ...]:
        """Returns one range per tensor."""
        return self._located[index].ranges(expert)

    def _open_shard(self, path: Path) -> int:
        return self.access.open(path)

    def file_nbytes(self, index: int, expert: int) -> int | None:
        """Returns None: a shard's size is no expert's."""
        return None

    def opened(self, index: int, expert: int, number: int = 0) -> AbstractContextManager[int]:
        """Yields a descriptor of the shard that holds an expert's range `number`."""
        return self._files.using(self.byte_ranges(index, expert)[number].path)

    def digest(self, index: int, expert: int) -> str | None:
        """Returns None: a checkpoint carries no digests."""
        return None

    def keep_layers(self, indices: Sequence[int]) -> None:
        """Leaves the checkpoint with some of its layers."""
        kept = (self._located[index] for index in indices)
        self._located = tuple(replace(one, layer=replace(one.layer, index=place)) for place, one in enumerate(kept))
        self.layers = tuple(located.layer for located in self._located)
        self.experts_nbytes = sum(layer.nbytes for layer in self.layers)

    def _read(self, index: int, expert: int, buffers: Sequence[memoryview]) -> None:
        layer, start = self.layers[index], 0
        ranges = self.byte_ranges(index, expert)
        while start < len(ranges):
            stop, end = start + 1, ranges[start].offset + ranges[start].nbytes
            while stop < len(ranges) and (ranges[stop].path, ranges[stop].offset) == (ranges[start].path, end):
                end += ranges[stop].nbytes
                stop += 1
            path, wanted = ranges[start].path, end - ranges[start].offset
            try:
                with self._files.using(path) as fd:
                    got = self.access.fill(fd, buffers[start:stop], ranges[start].offset)
            except OSError as error:
                raise ExpertReadError(layer.layer, expert, path, error.strerror or str(error)) from error
            if got != wanted:
                name = layer.tensors[start].name
                raise ExpertReadError(layer.layer, expert, path, f"{name} ends after {got} of {wanted} bytes")
            start = stop

    def _forget(self, index: int, expert: int) -> None:
        for span in self.byte_ranges(index, expert):
            self._files.forget(span.path)

    def _close_idle(self) -> None:
        self._files.shrink()

    def drop_cached(self) -> None:
        """Closes idle descriptors and drops cached pages of every shard."""
        self._close_idle()
        for path in self.resident_shards:
            with self._files.using(path) as fd:
                drop_pages(fd)

    def close(self) -> None:
        """Closes every descriptor."""
        self._files.close()
