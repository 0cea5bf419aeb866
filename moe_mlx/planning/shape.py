"""A model as its headers describe it: enough to plan its memory and its speed, without one byte of its weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.planning.low_slots import coarse_sizes
from moe_mlx.planning.parts import ONLY_WITH_PICTURES, Part, parts_of
from moe_mlx.planning.taken import taken
from moe_mlx.store import ExpertLayer, header, is_store, open_source
from moe_mlx.store.checkpoint import read_shards
from moe_mlx.store.families import library_of
from moe_mlx.store.files import open_regular
from moe_mlx.store.given import bits_words
from moe_mlx.store.hub_snapshot import real_store
from moe_mlx.store.locate import Located, StackedAtLoadError, locate
from moe_mlx.store.schemes import unpacked

_EMBEDDINGS = ("embed_tokens.", "wte.", "word_embeddings.", "tok_embeddings.", "embed_in.", "embeddings.weight")
_HEADS = ("lm_head.", "output.weight", "embed_out.", "ff_out.")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a model.

    Attributes:
        name: Folder or repository.
        form: "store" or "checkpoint", with where it is.
        config: Its config.json.
        layers: Its MoE layers.
        resident_nbytes: Bytes of every weight in memory that is no routed expert; what mlx-lm drops is none.
        looked_up_nbytes: Bytes of embeddings of which a token takes one row (0 where they are the output head too).
        to_convert: Whether it runs only once it is converted: mlx-lm stacks its experts while it loads.
        parts: What it has beside its language model.
        coarse_nbytes: Bytes of a coarse expert, by layer; None where experts are whole only.
        bits: What its experts have in their files, in a few words; "" where all have the bits of the model.
    """

    name: str
    form: str
    config: Mapping[str, Any]
    layers: tuple[ExpertLayer, ...]
    resident_nbytes: int
    looked_up_nbytes: int
    to_convert: bool = False
    coarse_nbytes: tuple[int, ...] | None = None
    parts: tuple[Part, ...] = ()
    bits: str = ""

    @property
    def experts_nbytes(self) -> int:
        """Bytes of every routed expert in memory."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def stored_nbytes(self) -> int:
        """Bytes of every routed expert in files."""
        return sum(layer.nbytes if layer.stored_nbytes is None else layer.stored_nbytes for layer in self.layers)

    @property
    def built_by(self) -> str:
        """Which library builds it for text."""
        return library_of(self.config)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return self.experts_nbytes + self.resident_nbytes

    @property
    def active_nbytes(self) -> int:
        """Bytes of weights that one decode step goes through: all but the embeddings, and top_k experts a layer."""
        chosen = sum(layer.top_k * layer.expert_nbytes for layer in self.layers)
        return self.resident_nbytes - self.looked_up_nbytes + chosen

    @property
    def choices(self) -> int:
        """Experts that one decode step chooses, over all layers."""
        return sum(layer.top_k for layer in self.layers)


def looked_up(tensors: Iterable[tuple[str, int]]) -> int:
    """Returns the bytes of embeddings among (name, bytes) of tensors, 0 where there is no head beside them."""
    found = list(tensors)
    if not any(name.startswith(_HEADS) or any(f".{head}" in name for head in _HEADS) for name, _ in found):
        return 0
    return sum(nbytes for name, nbytes in found if any(word in name for word in _EMBEDDINGS))


def local_shape(folder: Path) -> ModelShape:
    """Reads the headers of a store or checkpoint.

    Raises:
        StoreError: missing, incomplete or corrupt.
        UnsupportedModelError: no mixture of experts that is known.
    """
    root = real_store(folder)
    if not is_store(root):
        shards = read_shards(root)
        return checkpoint_shape(str(folder), "checkpoint", shards.config, shards.tensors, root)
    with open_source(root, verify=False) as source:
        tensors: list[tuple[str, int]] = []
        for shard in source.resident_shards:
            fd = open_regular(shard)
            try:
                entries = header.read(fd, shard).entries
            finally:
                os.close(fd)
            tensors += [(name, entry.nbytes) for name, entry in entries.items()]
        config = dict(source.config)
        parts = parts_of(config, tensors, root)
        unused = sum(part.nbytes for part in parts if part.fate == ONLY_WITH_PICTURES)
        return ModelShape(
            str(folder),
            "store",
            config,
            source.layers,
            source.resident_nbytes - unused,
            looked_up(tensors),
            coarse_nbytes=coarse_sizes(source),
            parts=parts,
            bits=bits_words(source),
        )


def checkpoint_shape(
    name: str, form: str, config: Mapping[str, Any], tensors: Mapping[str, Located], where: Path
) -> ModelShape:
    """Returns the shape of a checkpoint from its headers: what its model has of them in memory.

    Args:
        name: As shown.
        form: "checkpoint", with where it is.
        config: Its config.json.
        tensors: Every tensor, by name.
        where: Named in errors.

    Raises:
        StoreCorruptError: tensors that contradict each other or the config.
        UnsupportedModelError: no mixture of experts that is known.
        UnpackedError: one that mlx-lm does not unpack.
    """
    try:
        layout, to_convert = locate(tensors, config, where), False
    except StackedAtLoadError:
        layout, to_convert = None, True
    loaded = taken(config, (tensor.entry for tensor in tensors.values()), where)
    try:
        stacked = locate(loaded, config, where)
    except StackedAtLoadError as error:
        raise unpacked(where, config, error.example) from None
    layers = tuple(found.layer for found in (layout or stacked).layers)
    resident = [(key, t.entry.nbytes) for key, t in loaded.items() if key not in stacked.expert_names]
    parts = parts_of(config, ((key, t.entry.nbytes) for key, t in tensors.items()), where)
    nbytes = sum(n for _, n in resident)
    return ModelShape(name, form, config, layers, nbytes, looked_up(resident), to_convert, parts=parts)
