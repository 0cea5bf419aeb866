"""How a store is laid out: its folders and files, and the bytes before the data of each expert's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moe_mlx.store import header
from moe_mlx.store.parts import ALL, NARROW, ExpertLayout, held_of, layout_of, version_of
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
        layout: How each of its experts lies in its file; one that has all the bits of the model, where some have fewer.
        data_offset: Where data starts in each file.
        digests: Of each expert's tensors, one behind the other as a checkpoint holds them.
        part_digests: Of what lies in the files: by expert, by part, by row block; the same as `digests` where each file
            is one part of one block.
        bits: Of each expert's codes in its file; empty where all have those of the model.
        error: Where experts have fewer: the squared error of the layer's output beside what it puts out, by what was
            measured; None where nobody did.
        narrower: How experts of fewer bits lie in their files, by their bits.
    """

    layout: ExpertLayout
    data_offset: int
    digests: tuple[str, ...]
    part_digests: tuple[str, ...]
    bits: tuple[int, ...] = ()
    error: float | None = None
    narrower: Mapping[int, ExpertLayout] = field(default_factory=dict, hash=False)

    @property
    def layer(self) -> ExpertLayer:
        """The layer."""
        return self.layout.layer

    def digests_of(self, expert: int) -> tuple[str, ...]:
        """Returns the digests of one expert's file: by part, by row block."""
        each = self.layout.digests
        return self.part_digests[expert * each : (expert + 1) * each]

    def layout_of(self, expert: int) -> ExpertLayout:
        """Returns how one expert lies in its file."""
        return self.narrower.get(self.bits[expert], self.layout) if self.bits else self.layout

    @property
    def stored_nbytes(self) -> int:
        """Bytes of all experts in their files."""
        return sum(self.layout_of(expert).nbytes for expert in range(self.layer.experts))

    @property
    def directory(self) -> str:
        """Folder of the layer's files, relative to the store."""
        return layer_directory(self.layer)

    def file_nbytes(self, expert: int) -> int:
        """Returns the size of an expert's file."""
        return self.data_offset + self.layout_of(expert).nbytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that store.json says; `source` and `revision` name what was converted.

    Attributes:
        calibration: The text by which bits were given to experts, in a few words; "" where none was read.
    """

    source: str
    revision: str | None
    model_type: str
    layers: tuple[StoredLayer, ...]
    resident: tuple[StoredFile, ...]
    files: tuple[StoredFile, ...]
    resident_nbytes: int
    calibration: str = ""

    @property
    def version(self) -> int:
        """The least version of the format that says all of it."""
        return version_of([stored.layout for stored in self.layers], fewer=self.fewer) or 1

    @property
    def fewer(self) -> bool:
        """Whether it says the bits of each expert."""
        return any(stored.bits for stored in self.layers)

    @property
    def experts_nbytes(self) -> int:
        """Bytes of all routed experts in memory."""
        return sum(stored.layer.nbytes for stored in self.layers)

    @property
    def stored_nbytes(self) -> int:
        """Bytes of all routed experts in their files."""
        return sum(stored.stored_nbytes for stored in self.layers)


def narrower_of(layout: ExpertLayout, bits: tuple[int, ...]) -> dict[int, ExpertLayout]:
    """Returns how experts lie in their files that have fewer bits there than in memory, by their bits.

    Raises:
        ValueError: They cannot, or their headers would end elsewhere.
    """
    found = {
        few: layout_of(layout.layer, row_blocks=layout.row_blocks, bits=few)
        for few in sorted(set(bits))
        if few != held_of(bits)
    }
    if len({len(expert_header(one, 0)) for one in (layout, *found.values())}) > 1:
        raise ValueError("their headers differ in length: take fewer row blocks")
    return found


def layer_directory(layer: ExpertLayer) -> str:
    """Returns the folder of a layer's files, relative to the store."""
    return f"experts/layer-{layer.layer:03d}"


def expert_file(expert: int) -> str:
    """Returns the file name of an expert inside its layer's folder."""
    return f"expert-{expert:03d}.safetensors"


def expert_header(layout: ExpertLayout, expert: int) -> bytes:
    """Returns the exact bytes before the data of an expert's file: a safetensors header, padded to ALIGNMENT.

    Tensors are named relative to the switch (`gate_proj.weight`), halves and row blocks by what follows
    (`gate_proj.weight.high.07`); a narrow weight has its own name, and MLX's shape of so few bits. The metadata says
    whose they are.
    """
    layer, entries, begin = layout.layer, [], 0
    for part in layout.parts:
        for block in range(part.blocks):
            for piece in part.pieces:
                spec = layer.tensors[piece.tensor]
                name = spec.name if piece.half in (ALL, NARROW) else f"{spec.name}.{piece.half}"
                name = name if part.blocks == 1 else f"{name}.{block:02d}"
                shape = layout.shape_of(piece)
                entries.append(header.Entry(name, spec.dtype, shape, begin, begin + piece.nbytes))
                begin += piece.nbytes
    metadata = {"format": "mlx", "path": layer.path, "layer": f"{layer.layer:06d}", "expert": f"{expert:06d}"}
    return header.encode(entries, metadata, expert_file(expert), ALIGNMENT)
