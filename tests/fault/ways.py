"""The ways to make a store: a checkpoint into any version, a store of version 1 into version 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from moe_mlx.store.durable import Fs
from moe_mlx_convert import Summary, convert, upgrade

Run = Callable[..., Summary]
UPGRADE = "upgrade"
#: Each takes what is converted, the folder to make, and options.
WAYS: dict[str, Run] = {
    "version 1": convert,
    "version 2": partial(convert, nested=True, row_blocks=4),
    UPGRADE: partial(upgrade, nested=True, row_blocks=4),
}


FEWER = "version 3"


def fewer_bits(source: Path, store: Path, *, workers: int | None = None, fs: Fs | None = None) -> Summary:
    """Gives a checkpoint's experts bits by lot, in one thread, as ever."""
    from tests.fewer_bits import drawn

    return drawn(source, store, fs=fs)


#: One that needs MLX is among them: what has used that cannot be forked.
ALL_WAYS: dict[str, Run] = {**WAYS, FEWER: fewer_bits}


def make_source(source: Path, way: str, **sizes: Any) -> None:
    """Makes what is converted: a checkpoint, quantised to 4 bits, or a store of version 1."""
    from tests.checkpoints import make_checkpoint

    sizes = {"quantize": {"group_size": 32, "bits": 4}, "shard_bytes": 60_000, **sizes}
    if way != UPGRADE:
        make_checkpoint(source, **sizes)
        return
    checkpoint = source.with_name(f"{source.name}-checkpoint")
    make_checkpoint(checkpoint, **sizes)
    convert(str(checkpoint), source)
    shutil.rmtree(checkpoint)
