"""What the primitive is given of Python: a policy as numbers, a layer's table, log, bank and files as one handle."""

from __future__ import annotations

from array import array
from pathlib import Path
from types import ModuleType
from typing import Any

from moe_mlx.expert_cache.eviction import AgedLeastFrequentlyUsed
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.routing.cache_prior import CachePrior
from moe_mlx.routing.exact import Exact
from moe_mlx.routing.max_rank import Cumulative, MaxRank
from moe_mlx.routing.policy import RoutingPolicy
from moe_mlx.store import ExpertSource

PolicyNumbers = tuple[int, float, int, int, float]


def numbers_of(policy: RoutingPolicy) -> PolicyNumbers | None:
    """Returns a policy as the primitive takes it; None for one that is only known to Python."""
    if isinstance(policy, Exact):
        return 0, 0.0, 0, 0, 0.0
    if isinstance(policy, CachePrior):
        return 1, policy.lam, policy.top_j, 0, 0.0
    if isinstance(policy, MaxRank):
        return 2, 0.0, policy.top_j, policy.max_rank, 0.0
    if isinstance(policy, Cumulative):
        return 3, 0.0, policy.top_j, 0, policy.mass
    return None


def address_of(memory: array[Any]) -> int:
    """Returns where an array's items lie; good for as long as it is kept and not resized."""
    return memory.buffer_info()[0]


def bind(module: ModuleType, runtime: Any, reader: Any, hints: Any, source: ExpertSource, cache: LayerCache) -> Any:
    """Returns a handle on a layer as it is now; it goes stale when the layer gets another table or bank.

    Args:
        module: The primitive's extension.
        runtime: Its streams and fault, of this model.
        reader: Its reader threads.
        hints: Its threads that read ahead; None where nothing does.
        source: Where the experts lie.
        cache: The layer.
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
    lfu = table.eviction if isinstance(table.eviction, AgedLeastFrequentlyUsed) else None
    shared = (
        table.slot_of, table.owner, table.used, table.heat, table.whole, table.reals, table.uses, table.reads,
        table.last, table.distances,
    )  # fmt: skip
    logged = (log.rows, log.reals, log.written)
    handle = module.Layer(
        runtime=runtime,
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
        table=[address_of(memory) for memory in shared],
        lfu=lfu is not None,
        growth=1.0 if lfu is None else lfu.growth,
        log=[address_of(memory) for memory in logged],
        banks=cache.bank.arrays,
        stall_seconds=cache.pool.stall_seconds,
        keep=(shared, logged),
    )
    if hints is not None:
        handle.use(hints)
    return handle
