"""What the primitive is given of Python: a policy as numbers, a layer's table, log, bank and files as one handle."""

from __future__ import annotations

import ctypes
from array import array
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from moe_mlx.expert_cache.eviction import AgedLeastFrequentlyUsed, LeastRecentlyUsed, RouterMean
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.residency import Eviction
from moe_mlx.routing.cache_prior import CachePrior
from moe_mlx.routing.exact import Exact
from moe_mlx.routing.max_rank import Cumulative, MaxRank
from moe_mlx.routing.policy import RoutingPolicy
from moe_mlx.store import ExpertSource
from moe_mlx.system.metal import stall_limit


class PolicyNumbers(NamedTuple):
    """A policy as the primitive takes it; `kind` as `moe::Kind`."""

    kind: int
    lam: float = 0.0
    top_j: int = 0
    max_rank: int = 0
    mass: float = 0.0


class EvictionNumbers(NamedTuple):
    """An eviction as the primitive takes it; `kind` as `moe::Eviction::Kind`."""

    kind: int
    growth: float = 1.0
    keep: float = 0.0
    share: float = 0.0
    gain: float = 0.0


def policy_numbers(policy: RoutingPolicy) -> PolicyNumbers | None:
    """Returns a policy as the primitive takes it; None for one that only Python knows."""
    if type(policy) is Exact:
        return PolicyNumbers(0)
    if type(policy) is CachePrior:
        return PolicyNumbers(1, lam=policy.lam, top_j=policy.top_j)
    if type(policy) is MaxRank:
        return PolicyNumbers(2, top_j=policy.top_j, max_rank=policy.max_rank)
    if type(policy) is Cumulative:
        return PolicyNumbers(3, top_j=policy.top_j, mass=policy.mass)
    return None


def eviction_numbers(eviction: Eviction) -> EvictionNumbers | None:
    """Returns an eviction as the primitive takes it; None for one that only Python knows."""
    if type(eviction) is LeastRecentlyUsed:
        return EvictionNumbers(0)
    if type(eviction) is AgedLeastFrequentlyUsed:
        return EvictionNumbers(1, growth=eviction.growth)
    if type(eviction) is RouterMean:
        return EvictionNumbers(2, keep=eviction.keep, share=eviction.share, gain=eviction.gain)
    return None


def address_of(memory: array[Any]) -> int:
    """Returns where an array's items lie; good for as long as it is kept and not resized."""
    return memory.buffer_info()[0]


def bind(
    module: ModuleType, streams: Any, reader: Any, prefetcher: Any, source: ExpertSource, cache: LayerCache
) -> Any:
    """Returns a handle on a layer as it is now; it goes stale when the layer gets another table or bank.

    Args:
        module: The primitive's extension.
        streams: Its streams and fault, of this model.
        reader: Its reader threads.
        prefetcher: Its threads that prefetch; None where nothing does.
        source: Where the experts lie.
        cache: The layer.

    Raises:
        ValueError: an eviction that only Python knows.
    """
    spec, table, log = cache.spec, cache.table, cache.log
    files: dict[Path, int] = {}
    ranges, digests = array("q"), bytearray()
    for expert in range(spec.experts):
        for run in source.byte_ranges(spec.index, expert):
            ranges.extend((files.setdefault(run.path, len(files)), run.offset, run.nbytes))
        if source.verify and (digest := source.digest(spec.index, expert)) is not None:
            digests += bytes.fromhex(digest)
    whole_file = -1 if source.in_place else source.byte_ranges(spec.index, 0)[0].offset + spec.expert_nbytes
    evict = eviction_numbers(table.eviction)
    if evict is None:
        raise ValueError(f"eviction {table.eviction.name} does not run in the graph")
    arrays: dict[str, array[Any]] = {name: getattr(table, name) for name in module.TABLE_ARRAYS}
    logged: dict[str, array[Any]] = {"rows": log.rows, "weights_moved": log.weights_moved, "written": log.written}
    handle = module.Layer(
        streams=streams,
        reader=reader,
        layer=spec.layer,
        tensors=[tensor.name for tensor in spec.tensors],
        tensor_nbytes=[tensor.nbytes for tensor in spec.tensors],
        paths=[str(path) for path in files],
        file_nbytes=whole_file,
        ranges=ranges.tobytes(),
        digests=bytes(digests),
        experts=table.experts,
        slots=table.slots,
        table={
            **{name: address_of(memory) for name, memory in arrays.items()},
            "state": ctypes.addressof(table.state),
        },
        evict=module.Eviction(**evict._asdict()),
        log={name: address_of(memory) for name, memory in logged.items()},
        banks=cache.bank.arrays,
        stall_seconds=stall_limit(cache.pool.stall_seconds),
        keep=(arrays, table.state, logged),
    )
    if prefetcher is not None:
        handle.use(prefetcher)
    return handle
