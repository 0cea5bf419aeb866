"""A process whose disk fails while MLX's graph reads from it: says which error came, and whether the rest is right.

`python -m tests.native.failing_reads STORE LIGHT PART` with `failing_reads.c` preloaded; `PART`: whole, coarse or rest.
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx

from moe_mlx.errors import ExpertReadError
from tests.native.conftest import loaded
from tests.native.runs import same, steps


def place_of(runtime: Any, part: str) -> tuple[int, int]:
    """Where in its file a part of any expert of the first layer starts, and its bytes."""
    source = runtime.source
    at, whole = source.byte_ranges(0, 0)[0].offset, source.layers[0].expert_nbytes
    if part == "whole":
        return at, whole
    prefix = source.layouts[0].coarse_nbytes()
    return (at, prefix) if part == "coarse" else (at + prefix, whole - prefix)


def main(store: str, light: str, part: str) -> None:
    """Decodes until a read fails, then lets the disk be well again."""
    model, _, runtime = loaded(Path(store), "native", "75%", routing="exact", light=light, light_beyond=0.3)
    expected = steps(model)
    runtime.reset()
    disk = ctypes.CDLL(None)
    disk.fail_reads.argtypes = [ctypes.c_longlong, ctypes.c_longlong]
    disk.fail_reads(*place_of(runtime, part))
    told = None
    try:
        steps(model)
    except ExpertReadError as error:
        told = {"layer": error.layer, "expert": error.expert, "reason": error.reason, "file": str(error.path)}
    disk.fail_reads(-1, -1)
    runtime.end_turn()
    runtime.drain()
    runtime.reset()
    counted = runtime.stats.decode.read_backs
    again = same(steps(model), expected)
    print(json.dumps({"told": told, "again": again, "read_backs": counted}))


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    main(*sys.argv[1:])
