"""An MLX checkpoint read in place: experts are rows of its own shards. No digests, several reads an expert."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.errors import ExpertReadError, StoreCorruptError, StoreMissingError
from moe_mlx.store import header
from moe_mlx.store.descriptors import Descriptors
from moe_mlx.store.files import drop_pages, open_regular
from moe_mlx.store.locate import Layout, Located, locate
from moe_mlx.store.source import ExpertSource
from moe_mlx.store.spec import ByteRange

INDEX = "model.safetensors.index.json"
_NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")
#: Config and index files larger than this are damage or an attack on memory.
MAX_JSON_NBYTES = 64_000_000
#: A model of a million layers is built layer by layer before any weight contradicts it. The deepest known has 126.
MOST_LAYERS = 1024
_LAYERS = re.compile(r"(?:n|num)_(?:\w+_)?(?:layers?|blocks)")
#: A kind for each layer: some models have as many layers as such a list is long.
_KINDS = re.compile(r"layer_types|layers_block_type|hybrid_override_pattern")


@dataclass(frozen=True, slots=True)
class Shards:
    """Every tensor of a checkpoint, from its shards' headers; sources may be symbolic links (hub snapshots)."""

    root: Path
    files: tuple[Path, ...]
    headers: Mapping[Path, header.Header]
    tensors: Mapping[str, Located]
    config: Mapping[str, Any]


def read_json(path: Path) -> Any:
    """Reads a JSON file of a model.

    Raises:
        StoreMissingError: No such file.
        StoreCorruptError: Unreadable, too large or no JSON.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_JSON_NBYTES:
                raise StoreCorruptError(
                    f"{path}: larger than {MAX_JSON_NBYTES} bytes; this is no description of a model."
                )
            return json.loads(file.read(MAX_JSON_NBYTES))
    except FileNotFoundError:
        raise StoreMissingError(f"{path}: no such file. Name the folder of a store or of an MLX checkpoint.") from None
    except (ValueError, RecursionError) as error:
        raise StoreCorruptError(f"{path}: not JSON ({error}). Fetch or convert the model again.") from None
    except OSError as error:
        raise StoreCorruptError(f"{path}: cannot be read ({error.strerror}).") from None


def read_config(root: Path) -> Mapping[str, Any]:
    """Reads a model's config.json, which must be an object and count no absurd number of layers.

    Raises:
        StoreMissingError: No such file.
        StoreCorruptError: It is no description of a model.
    """
    path = root / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise StoreCorruptError(f"{path}: no JSON object. Fetch or convert the model again.")
    for scope in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key, value in scope.items():
            count = value
            if _KINDS.fullmatch(key) and isinstance(value, list | str):
                count = len(value)
            elif not _LAYERS.fullmatch(key):
                continue
            if isinstance(count, int | float) and not count <= MOST_LAYERS:
                raise StoreCorruptError(
                    f"{path}: {key} counts {str(count)[:80]} layers, and no model has more than {MOST_LAYERS}. "
                    "Fetch it again."
                )
    return config


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

    def opened(self, index: int, expert: int, number: int = 0) -> AbstractContextManager[int]:
        """Yields a descriptor of the shard that holds an expert's range `number`."""
        return self._files.using(self.byte_ranges(index, expert)[number].path)

    def digest(self, index: int, expert: int) -> str | None:
        """Returns None: a checkpoint carries no digests."""
        return None

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
