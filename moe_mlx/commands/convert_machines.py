"""`moe-mlx convert --machines`: which files of a store each machine of a pipeline needs, as lists for rsync."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from moe_mlx.errors import UsageError
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

    def as_json(self) -> dict[str, object]:
        """Returns it for `--json`."""
        return asdict(self)


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


def _nbytes(path: Path) -> int:
    if path.is_dir():
        return sum(_nbytes(inner) for inner in path.iterdir())
    return path.stat().st_size


def describe(store: Path, shares: list[Share]) -> list[str]:
    """Returns who needs what, how to copy it there, and how to run it, a line each."""
    lines = []
    for share in shares:
        begin, end = share.layers
        copy = ""
        if share.rank:
            listed, here = shlex.quote(share.list), shlex.quote(f"{store}/")
            copy = f": rsync -ar --files-from={listed} {here} HOST-{share.rank}:{shlex.quote(f'{store.absolute()}/')}"
        lines.append(f"rank {share.rank} needs {show_bytes(share.nbytes)}, experts of layers {begin}-{end}{copy}")
    split = ",".join(str(share.layers[1] - share.layers[0] + 1) for share in shares)
    lines.append(f"mlx.launch --hostfile hosts.json -- moe-mlx generate --parallel pipeline --split {split} ...")
    return lines
