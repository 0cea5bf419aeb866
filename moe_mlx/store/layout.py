"""How a store is laid out: its folders and files, and the bytes before the data of each expert's file."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mlx.store import header
from moe_mlx.store.parts import ALL, ExpertLayout, version_of
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
    """A layer of a store.

    Attributes:
        layout: How each of its experts lies in its file.
        data_offset: Where data starts in each file.
        digests: Of each expert's tensors, one behind the other as a checkpoint holds them.
        part_digests: Of what lies in the files: by expert, by part, by row block; the same as `digests` where each file
            is one part of one block.
    """

    layout: ExpertLayout
    data_offset: int
    digests: tuple[str, ...]
    part_digests: tuple[str, ...]

    @property
    def layer(self) -> ExpertLayer:
        """The layer."""
        return self.layout.layer

    def digests_of(self, expert: int) -> tuple[str, ...]:
        """Returns the digests of one expert's file: by part, by row block."""
        each = self.layout.digests
        return self.part_digests[expert * each : (expert + 1) * each]

    @property
    def directory(self) -> str:
        """Folder of the layer's files, relative to the store."""
        return layer_directory(self.layer)

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
    def version(self) -> int:
        """The least version of the format that says all of it."""
        return version_of([stored.layout for stored in self.layers]) or 1

    @property
    def experts_nbytes(self) -> int:
        """Bytes of all routed experts."""
        return sum(stored.layer.nbytes for stored in self.layers)


def layer_directory(layer: ExpertLayer) -> str:
    """Returns the folder of a layer's files, relative to the store."""
    return f"experts/layer-{layer.layer:03d}"


def expert_file(expert: int) -> str:
    """Returns the file name of an expert inside its layer's folder."""
    return f"expert-{expert:03d}.safetensors"


def expert_header(layout: ExpertLayout, expert: int) -> bytes:
    """Returns the exact bytes before the data of an expert's file: a safetensors header, padded to ALIGNMENT.

    Tensors are named relative to the switch (`gate_proj.weight`), halves and row blocks by what follows
    (`gate_proj.weight.high.07`); the metadata says whose they are.
    """
    layer, entries, begin = layout.layer, [], 0
    for part in layout.parts:
        for block in range(part.blocks):
            for piece in part.pieces:
                spec = layer.tensors[piece.tensor]
                name = spec.name if piece.half == ALL else f"{spec.name}.{piece.half}"
                name = name if part.blocks == 1 else f"{name}.{block:02d}"
                shape = layout.shape_of(piece)
                entries.append(header.Entry(name, spec.dtype, shape, begin, begin + piece.nbytes))
                begin += piece.nbytes
    metadata = {"format": "mlx", "path": layer.path, "layer": f"{layer.layer:06d}", "expert": f"{expert:06d}"}
    return header.encode(entries, metadata, expert_file(expert), ALIGNMENT)
