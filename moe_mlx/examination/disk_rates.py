"""How fast the disk gives what an expert is: blocks of several sizes, some at a time, from the disk and from memory."""

from __future__ import annotations

import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from moe_mlx.store.files import drop_pages, fill
from moe_mlx.store.page_cache import cached_nbytes

SIZES, DEPTHS = (1 << 19, 1 << 21, 1 << 22), (1, 4, 8)
#: A read counts as cold while the page cache held no more than this of it.
_COLD = 0.05


def examine(folder: Path, *, small: bool) -> dict[str, Any]:
    """Writes a file, reads it, removes it; rates in bytes a second, the median of three."""
    nbytes = (32 if small else 384) << 20
    path = folder / "disk-rates"
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(nbytes >> 22):
            file.write(rng.bytes(1 << 22))
        file.flush()
        os.fsync(file.fileno())
    fd = os.open(path, os.O_RDONLY)
    rows: list[dict[str, Any]] = []
    try:
        for size in SIZES[-1:] if small else SIZES:
            for depth in DEPTHS:
                rows += [
                    {"block": size, "depth": depth, **_rate(fd, nbytes, size, depth, cold)} for cold in (True, False)
                ]
    finally:
        os.close(fd)
        path.unlink()
    return {"rows": rows, "file_bytes": nbytes}


def _rate(fd: int, nbytes: int, size: int, depth: int, cold: bool) -> dict[str, Any]:
    offsets = np.random.default_rng(size + depth).permutation(nbytes // size) * size
    offsets = offsets[: max(depth, min(len(offsets), (128 << 20) // size))]
    rates, held = [], 0.0
    for _ in range(3):
        if cold:
            drop_pages(fd)
            found = cached_nbytes(fd, 0, nbytes)
            held = max(held, 0.0 if found is None else found / nbytes)
        buffers = [memoryview(mmap.mmap(-1, size)) for _ in range(depth)]

        def read(worker: int, own: list[memoryview] = buffers) -> None:
            for offset in offsets[worker::depth].tolist():
                fill(fd, [own[worker]], offset)

        with ThreadPoolExecutor(depth) as threads:
            started = time.perf_counter()
            list(threads.map(read, range(depth)))
            rates.append(len(offsets) * size / (time.perf_counter() - started))
    return {"cold": cold and held <= _COLD, "asked_cold": cold, "rate": sorted(rates)[1]}
