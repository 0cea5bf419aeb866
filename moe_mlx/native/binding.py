"""What the primitive is given of Python: a policy as numbers, a layer's table, log, bank and files as one handle."""

from __future__ import annotations

import ctypes
from array import array
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from moe_mlx.expert_cache.eviction import AgedLeastFrequentlyUsed, LeastRecentlyUsed, RouterMean
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.low_slots import LowSlots, cut_in
from moe_mlx.expert_cache.residency import Eviction
from moe_mlx.routing.cache_prior import CachePrior
from moe_mlx.routing.exact import Exact
from moe_mlx.routing.max_rank import Cumulative, MaxRank
from moe_mlx.routing.policy import RoutingPolicy
from moe_mlx.store import ExpertSource
from moe_mlx.store.codes import Bytes
from moe_mlx.store.parts import ALL, COARSE_FORMS, HIGH, LOW, NARROW, ExpertLayout, Halves
from moe_mlx.store.parts import COARSE as HIGH_BITS_ONLY
from moe_mlx.store.row_share import RowShare
from moe_mlx.store.store import StoreSource
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


class NativeCodes:
    """`Codes` by the extension, without the GIL."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def high_of(self, cut: Halves, whole: Bytes, high: Bytes) -> None:
        """See `Codes.high_of`."""
        self.module.high_of(*cut, whole.ctypes.data, high.ctypes.data, whole.size)

    def lift(self, cut: Halves, high: Bytes, whole: Bytes) -> None:
        """See `Codes.lift`."""
        self.module.lift(*cut, high.ctypes.data, whole.ctypes.data, whole.size)

    def complete(self, cut: Halves, low: Bytes, whole: Bytes) -> None:
        """See `Codes.complete`."""
        self.module.complete(*cut, low.ctypes.data, whole.ctypes.data, whole.size)


def address_of(memory: array[Any]) -> int:
    """Returns where an array's items lie; good for as long as it is kept and not resized."""
    return memory.buffer_info()[0]


def _digests(source: ExpertSource, index: int, expert: int) -> tuple[str, ...]:
    """Returns what an expert's bytes are checked against: a digest of its tensors, or one a part of its file."""
    layout = source.layout_of(index, expert)
    if layout is not None and layout.rearranged:
        assert isinstance(source, StoreSource | RowShare)
        return source.part_digests(index, expert)
    digest = source.digest(index, expert)
    return () if digest is None else (digest,)


def parts_of(layout: ExpertLayout, low: LowSlots | None, blocks: range | None = None) -> dict[str, Any] | None:
    """Returns how a layer's experts lie in their files, for `moe::Parts`; None where their tensors do one by one.

    Args:
        layout: Of the layer.
        low: Its low slots; None where there are none.
        blocks: The row blocks that are read, as if there were no others; by default all.
    """
    if not layout.rearranged:
        return None
    form = low.form if low is not None else HIGH_BITS_ONLY
    prefix = COARSE_FORMS[form] if layout.nested else len(layout.parts)
    cut = set(cut_in(layout, form)) if layout.nested else set()
    blocks = range(layout.row_blocks) if blocks is None else blocks
    halves, placed = array("q"), array("q")
    for tensor in range(len(layout.layer.tensors)):
        how = layout.halves.get(tensor)
        halves.extend((how.bits, how.high_bits, tensor in cut) if how is not None else (0, 0, 0))
    for one in (one for run in layout.runs(blocks=blocks) for one in run.placed):
        offset = (one.row - blocks.start * one.rows) * one.nbytes // one.rows if one.rows else 0
        placed.extend((one.tensor, (ALL, HIGH, LOW, NARROW).index(one.half), offset, one.at, one.nbytes))
    return {
        "halves": halves.tobytes(),
        "placed": placed.tobytes(),
        "digested": array("q", [part.block_nbytes for part in layout.parts for _ in blocks]).tobytes(),
        "names": [
            part.name if part.blocks == 1 else f"{part.name}, row block {block}"
            for part in layout.parts
            for block in blocks
        ],
        "coarse_digests": prefix * len(blocks),
        "coarse_nbytes": sum(part.block_nbytes * len(blocks) for part in layout.parts[:prefix]),
        "bits": layout.bits,
        "nbytes": sum(part.block_nbytes * len(blocks) for part in layout.parts),
    }


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
    spec, table, log, low = cache.spec, cache.table, cache.log, cache.bank.low
    files: dict[Path, int] = {}
    ranges, digests = array("q"), bytearray()
    for expert in range(spec.experts):
        for run in source.byte_ranges(spec.index, expert):
            ranges.extend((files.setdefault(run.path, len(files)), run.offset, run.nbytes))
        for digest in _digests(source, spec.index, expert) if source.verify else ():
            digests += bytes.fromhex(digest)
    file_nbytes = [-1] * len(files)
    for expert in range(spec.experts) if not source.in_place else ():
        whole = source.file_nbytes(spec.index, expert)
        file_nbytes[files[source.byte_ranges(spec.index, expert)[0].path]] = -1 if whole is None else whole
    narrower = source.narrower(spec.index)
    forms = {bits: place for place, bits in enumerate(narrower, start=1)}
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
        file_nbytes=file_nbytes,
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
        parts=parts_of(source.layouts[spec.index], low, source.blocks) if source.layouts else None,
        narrower=[parts_of(layout, None, source.blocks) for layout in narrower.values()],
        form=bytes(forms.get(bits, 0) for bits in source.bits[spec.index]) if narrower else b"",
        low_banks=[] if low is None else low.bank.arrays,
        low_nbytes=[] if low is None else [tensor.nbytes for tensor in low.bank.specs],
        low=table.low,
        keep=(arrays, table.state, logged),
    )
    if prefetcher is not None:
        handle.use(prefetcher)
    return handle
