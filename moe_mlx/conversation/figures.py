"""What a model's expert cache is and counts, as JSON: for whoever watches it from another process or machine.

Maps are four numbers an expert as little-endian arrays, zlib-compressed, in base64, layer after layer: `slot_of`
(int16, -1 for absent), `age` (int32: choices of its layer since it was used), `uses` and `reads` (uint32).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moe_mlx.system.memory import read_memory

if TYPE_CHECKING:
    from moe_mlx.loading.runtime import Runtime

#: The arrays of a map, and how each is packed.
MAP = {"slot_of": "<i2", "age": "<i4", "uses": "<u4", "reads": "<u4"}
#: Bytes of one array at most, unpacked.
_LARGEST = 1 << 24


def facts_of(runtime: Runtime) -> dict[str, Any]:
    """Returns what does not change about a model's MoE layers."""
    layers = runtime.source.layers
    return {
        "layers": [layer.layer for layer in layers],
        "experts": [layer.experts for layer in layers],
        "top_k": [layer.top_k for layer in layers],
        "expert_bytes": [layer.expert_nbytes for layer in layers],
    }


def figures_of(runtime: Runtime) -> dict[str, Any]:
    """Returns counts and memory; touches no array of MLX, so any thread may ask."""
    memory, plan = read_memory(), runtime.plan
    return {
        "routing": runtime.in_force,
        "decode_way": runtime.decode_way,
        "slots_per_layer": runtime.slots_per_layer,
        "low_slots_per_layer": runtime.low_slots_per_layer,
        "layers": [list(pair) for pair in runtime.layers.ledger.layer_totals()],
        "decode": dict(runtime.stats.decode.as_dict()),
        "prefill": dict(runtime.stats.prefill.as_dict()),
        "memory": {
            "expert_slots": runtime.expert_cache_bytes,
            "resident_weights": plan.resident_weights,
            "planned": plan.total,
            "footprint": memory.footprint,
            "free": memory.available,
            "total": memory.total,
            "swap": memory.swap_used,
        },
    }


def map_of(runtime: Runtime) -> dict[str, str]:
    """Returns which expert sits where; touches no array of MLX, so any thread may ask."""
    tables = [cache.table for cache in runtime.layers]
    slots = [np.array(table.slot_of, dtype=np.int64) for table in tables]
    ages = [
        np.where(places >= 0, table.clock - np.frombuffer(table.used, dtype=np.int64)[places], -1)
        for places, table in zip(slots, tables, strict=True)
    ]
    found = {
        "slot_of": np.concatenate(slots),
        "age": np.minimum(np.concatenate(ages), 2**31 - 1),
        "uses": np.concatenate([np.frombuffer(table.uses, dtype=np.int64) for table in tables]),
        "reads": np.concatenate([np.frombuffer(table.reads, dtype=np.int64) for table in tables]),
    }
    return {name: packed(array.astype(MAP[name])) for name, array in found.items()}


def empty_map(experts: int) -> dict[str, str]:
    """Returns the map of so many experts of which nothing is known yet."""
    return {name: packed(np.full(experts, 0 if "u" in kind else -1, dtype=kind)) for name, kind in MAP.items()}


def packed(array: NDArray[Any]) -> str:
    """Returns an array as maps have it."""
    return base64.b64encode(zlib.compress(array.tobytes(), 1)).decode()


def unpacked(told: Mapping[str, Any], name: str) -> NDArray[Any]:
    """Returns an array of a map.

    Raises:
        KeyError, TypeError, ValueError, zlib.error: it is none.
    """
    data = zlib.decompressobj().decompress(base64.b64decode(told[name]), _LARGEST)
    return np.frombuffer(data, dtype=MAP[name])
