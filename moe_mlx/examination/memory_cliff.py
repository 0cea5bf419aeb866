"""From how much memory on more of it makes MLX slower: pieces are taken one by one, and the same work is timed beside.

What is timed goes through every piece, as decode goes through experts that are anywhere in the cache. It stops at the
first sign: slower by half, and slower than less memory is at that same time; memory pressure; or the end of what macOS
can spare.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import mlx.core as mx

from moe_mlx.loading.pressure import under_pressure
from moe_mlx.system.memory import read_memory
from moe_mlx.system.metal import comfortable_bytes, working_set_bytes

#: Of what was fastest, below which memory counts as slower.
_SLOWER = 1 / 1.5
_STEPS = 12
#: How often less and more memory are gone through by turns where more of it was slower.
_TURNS = 9
#: Of what is available where there is no working set: the machine has others on it.
_SHARE_OF_AVAILABLE = 0.25


def examine(folder: Path, *, small: bool) -> dict[str, Any]:
    """Returns bytes held, bytes a second of going through them, and the cliff, None where none was met."""
    most = _most(small)
    piece = max(1 << 20, most // _STEPS)
    held: list[mx.array] = []
    rows: list[dict[str, Any]] = []
    cliff = None
    fastest, fastest_at = 0.0, 1
    page = mx.random.uniform(shape=(256, 1024))  # as weights are: macOS makes little of what it can compress
    while (len(held) + 1) * piece <= most:
        held.append(mx.take(page, mx.arange(piece // 4096) % 256, axis=0))
        mx.eval(held[-1])
        rate = max(_rate(held, piece) for _ in range(2))
        rows.append({"bytes": len(held) * piece, "rate": rate})
        if rate > fastest:
            fastest, fastest_at = rate, len(held)
        pressed = under_pressure() is True
        if pressed or (rate < _SLOWER * fastest and slower_by_size(held, fastest_at, piece)):
            cliff = (len(held) - 1) * piece
            rows[-1]["pressure"] = pressed
            break
    return {"rows": rows, "cliff_bytes": cliff, "most_bytes": most}


def slower_by_size(held: list[mx.array], fastest_at: int, piece: int) -> bool:
    """Returns whether all that is held is slower than its first pieces at every turn: what disturbs slows either.

    Args:
        held: The pieces.
        fastest_at: How many of them were gone through fastest.
        piece: Bytes of one.
    """
    return all(_rate(held, piece) < _SLOWER * _rate(held[:fastest_at], piece) for _ in range(_TURNS))


def _most(small: bool) -> int:
    """What is taken at most: on Metal up to what it recommends and macOS can spare."""
    if small:
        return 24 << 20
    working_set, comfortable = working_set_bytes(), comfortable_bytes()
    if working_set is None or comfortable is None:
        return min(2 << 30, int(read_memory().available * _SHARE_OF_AVAILABLE))
    return int(0.95 * min(working_set, comfortable))


def _rate(held: list[mx.array], piece: int) -> float:
    """Bytes a second of one sum over a sixteenth of every piece."""
    started = time.perf_counter()
    mx.eval([array[number % 16 :: 16].sum() for number, array in enumerate(held)])
    return len(held) * piece / 16 / (time.perf_counter() - started)
