"""The generated model that decode is timed on: a checkpoint for mlx-lm, and the store that `convert` makes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from moe_mlx.errors import MoeMlxError
from moe_mlx.rig.random_store import SHAPES, Shape, make_checkpoint

#: 64 experts a layer of 0.7 MB: capped at a quarter it does not fit, and is written in seconds.
FULL = Shape(8, 64, 8, 1024, 384, 16, 4, 64, 8192)
#: The most that the folder holds at once, in bytes: the checkpoint, the store, and the file that the disk is read from.
NEEDED_BYTES = 1_800_000_000


def checkpoint_and_store(folder: Path, *, small: bool) -> tuple[Path, Path]:
    """Returns both, made on the first call.

    Raises:
        MoeMlxError: the store could not be made.
    """
    checkpoint, store = folder / "checkpoint", folder / "store"
    if not store.exists():
        if not checkpoint.exists():
            make_checkpoint(SHAPES["tiny"] if small else FULL, checkpoint)
        command = [sys.executable, "-m", "moe_mlx", "convert", "--model", str(checkpoint), "--mlx-path", str(store)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MoeMlxError(f"the generated model was not converted: {done.stderr.strip()[-300:]}")
    return checkpoint, store
