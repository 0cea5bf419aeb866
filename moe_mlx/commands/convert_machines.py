"""`moe-mlx convert --machines`: what of a store each machine needs, as lists of files, or rows of every expert."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from moe_mlx.errors import UsageError
from moe_mlx.machines.launched import PIPELINE, TENSOR
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.whole_files import write_whole


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank needs of a store.

    Attributes:
        layers: The first and the last of its layers, by the model's own number.
        names: Files and folders of the store.
        nbytes: Their size.
        list: The file that names them, one a line.
    """

    rank: int
    layers: tuple[int, int]
    names: tuple[str, ...]
    nbytes: int
    list: str

    way: ClassVar[str] = PIPELINE

    @property
    def places(self) -> tuple[int, int]:
        """What `--split` counts, its first and its last."""
        return self.layers

    def line(self, store: Path) -> str:
        """Returns what it needs and how to copy it there."""
        copy = ""
        if self.rank:
            listed, here = shlex.quote(self.list), shlex.quote(f"{store}/")
            copy = f": rsync -ar --files-from={listed} {here} HOST-{self.rank}:{shlex.quote(f'{store.absolute()}/')}"
        begin, end = self.layers
        return f"rank {self.rank} needs {show_bytes(self.nbytes)}, experts of layers {begin}-{end}{copy}"


def share_out(store: Path, sizes: list[int]) -> list[Share]:
    """Writes a list beside a store for each machine, and returns what stands in them.

    Args:
        store: A whole store.
        sizes: Memory of each machine in bytes, rank 0 first. The last rank runs the first layers.

    Raises:
        UsageError: mlx-lm cannot pipeline this family, or there are fewer layers than machines.
    """
    from moe_mlx.loading.skeleton import build
    from moe_mlx.machines.cost import layers_by_memory
    from moe_mlx.machines.part import pipelined
    from moe_mlx.planning.forecast import usable_memory
    from moe_mlx.planning.shape import local_shape
    from moe_mlx.store.store import StoreSource

    source = StoreSource.open(store)
    with source:
        skeleton = build(store, source)
        pipelined(skeleton.model, skeleton.family)
        split = layers_by_memory(local_shape(store), [usable_memory(size) for size in sizes])
        beside = sorted(path.name for path in store.iterdir() if path.name != "experts")
        shares = []
        for rank, count in enumerate(split):
            begin = sum(split[rank + 1 :])
            own = [m.directory for m in source.manifest.layers if begin <= m.layer.layer < begin + count]
            if not own:
                raise UsageError(f"--machines: layers {begin} to {begin + count - 1} have no routed experts")
            names = (*beside, *own)
            nbytes = sum(_nbytes(store / name) for name in names)
            path = store.parent / f"{store.name}.rank-{rank}.txt"
            write_whole(path, "".join(f"{name}\n" for name in names))
            shares.append(Share(rank, (begin, begin + count - 1), names, nbytes, str(path)))
    return shares


@dataclass(frozen=True, slots=True)
class RowsOf:
    """A rank's rows of every expert, taken out of a store.

    Attributes:
        blocks: The first and the last of its row blocks.
        folder: What has them, and everything else of the store.
        nbytes: The room that it takes.
    """

    rank: int
    blocks: tuple[int, int]
    folder: str
    nbytes: int

    way: ClassVar[str] = TENSOR

    @property
    def places(self) -> tuple[int, int]:
        """What `--split` counts, its first and its last."""
        return self.blocks

    def line(self, store: Path) -> str:
        """Returns what it needs and how to copy it there."""
        folder = shlex.quote(f"{self.folder}/")
        copy = f"rsync -aS {folder} HOST-{self.rank}:{shlex.quote(f'{store.absolute()}/')}"
        begin, end = self.blocks
        what = f"rank {self.rank} needs {show_bytes(self.nbytes)}, row blocks {begin}-{end}"
        return f"{what}: {copy}" if self.rank else f"{what}: {folder}, or the store itself"


def take_out(store: Path, sizes: list[int]) -> list[RowsOf]:
    """Makes a folder beside a store for each machine, with its rows of every expert, and returns what they are.

    Args:
        store: A whole store.
        sizes: Memory of each machine in bytes, rank 0 first.

    Raises:
        UsageError: a model or a store that cannot be shared by rows, or such a folder is there already.
        StoreError: as `moe_mlx_convert.take_rows`.
    """
    from moe_mlx.machines.cost import row_blocks
    from moe_mlx.machines.rows import shareable
    from moe_mlx.planning.forecast import usable_memory
    from moe_mlx.store.store import StoreSource
    from moe_mlx_convert import take_rows

    source = StoreSource.open(store)
    with source:
        if reason := shareable(source, len(sizes)):
            raise UsageError(f"--parallel tensor: {reason}")
        most = min(layout.row_blocks for layout in source.layouts)
        shares, begin = [], 0
        for rank, count in enumerate(row_blocks([usable_memory(size) for size in sizes], most)):
            folder = store.parent / f"{store.name}.rank-{rank}"
            nbytes = take_rows(source, range(begin, begin + count), folder)
            shares.append(RowsOf(rank, (begin, begin + count - 1), str(folder), nbytes))
            begin += count
    return shares


def _nbytes(path: Path) -> int:
    if path.is_dir():
        return sum(_nbytes(inner) for inner in path.iterdir())
    return path.stat().st_size


def describe(store: Path, shares: Sequence[Share] | Sequence[RowsOf]) -> list[str]:
    """Returns who needs what, how to copy it there, and how to run it, a line each."""
    split = ",".join(str(last - first + 1) for first, last in (share.places for share in shares))
    run = f"mlx.launch --hostfile hosts.json -- moe-mlx generate --parallel {shares[0].way} --split {split} ..."
    return [*(share.line(store) for share in shares), run]
