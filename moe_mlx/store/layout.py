"""How a store is laid out: its folders and files, and the bytes before the data of each expert's file."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mlx.store import header
from moe_mlx.store.spec import ExpertLayer

#: Data of every expert file starts at a multiple of this: the page size of Apple silicon.
ALIGNMENT = 16_384


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file beside the experts: a shard of resident weights, or one copied verbatim."""

    name: str
    nbytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer of a store: its layout, where data starts in each of its files, and each expert's digest."""

    layer: ExpertLayer
    data_offset: int
    digests: tuple[str, ...]

    @property
    def directory(self) -> str:
        """Folder of the layer's files, relative to the store."""
        return f"experts/layer-{self.layer.layer:03d}"

    @property
    def file_nbytes(self) -> int:
        """Size of each expert's file."""
        return self.data_offset + self.layer.expert_nbytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that store.json says; `source` and `revision` name what was converted."""

    source: str
    revision: str | None
    model_type: str
    layers: tuple[StoredLayer, ...]
    resident: tuple[StoredFile, ...]
    files: tuple[StoredFile, ...]
    resident_nbytes: int

    @property
    def experts_nbytes(self) -> int:
        """Bytes of all routed experts."""
        return sum(stored.layer.nbytes for stored in self.layers)


def expert_file(expert: int) -> str:
    """Returns the file name of an expert inside its layer's folder."""
    return f"expert-{expert:03d}.safetensors"


def expert_header(layer: ExpertLayer, expert: int) -> bytes:
    """Returns the exact bytes before the data of an expert's file: a safetensors header, padded to ALIGNMENT.

    Tensors are named relative to the switch (`gate_proj.weight`), the metadata says whose they are.
    """
    entries, begin = [], 0
    for tensor in layer.tensors:
        entries.append(header.Entry(tensor.name, tensor.dtype, tensor.shape, begin, begin + tensor.nbytes))
        begin += tensor.nbytes
    metadata = {"format": "mlx", "path": layer.path, "layer": f"{layer.layer:06d}", "expert": f"{expert:06d}"}
    return header.encode(entries, metadata, expert_file(expert), ALIGNMENT)
