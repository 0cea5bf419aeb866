"""Prompts: a layer's experts are visited in waves, each read at most once per layer and chunk (Edge-MoE, 2305.18691).

While one wave computes, the next one's reads are in flight. Outputs go back to their (row, rank) place, so the model
sums in its own order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from moe_mlx.counts.event_log import PREFILL
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.reading import Reads
from moe_mlx.expert_cache.residency import Placement, ResidencyTable


@dataclass(frozen=True, slots=True)
class Pass:
    """One way through a layer, there or back.

    Attributes:
        compute: Rows `[..., D]` and their slots `[..., k]` to `[..., k, D']`: the layer's module or its stand-in.
        step: Number of the model call, for the log.
        again: Whether these rows went through the layer before, so that neither they nor their uses count once more.
        queue: Has a wave computed: from now on, or by the time it returns.
    """

    compute: Callable[[mx.array, mx.array], mx.array]
    step: int
    again: bool = False
    queue: Callable[[mx.array], None] = mx.async_eval


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What a chunk of a prompt asks of one layer.

    Attributes:
        chosen: int64 `[..., k]`, the model's choice; what is not stored stands as some expert that is needed anyway.
        counts: int64 `[E]`, how often each expert was chosen.
        needed: The experts that were chosen at all.
        resident: bool `[E]`, what was in memory before, whole.
        pinned: bool `[E]`, what has a slot of its own, or will have.
    """

    chosen: NDArray[np.int64]
    counts: NDArray[np.intp]
    needed: NDArray[np.intp]
    resident: NDArray[np.bool_]
    pinned: NDArray[np.bool_]

    @classmethod
    def of(cls, chosen: NDArray[np.int64], cache: LayerCache) -> _Chunk:
        experts = cache.table.experts
        stored = chosen < experts
        counts = np.bincount(chosen[stored], minlength=experts)
        needed = np.flatnonzero(counts)
        pinned = np.frombuffer(cache.table.pinned, dtype=np.int32) > 0
        chosen = np.where(stored, chosen, needed[0] if needed.size else 0)
        return cls(chosen, counts, needed, cache.whole_mask(), pinned)

    @property
    def loose(self) -> NDArray[np.intp]:
        """The needed experts that share the slots which pinned ones leave."""
        return self.needed[~self.pinned[self.needed]]

    def rarest_first(self) -> list[int]:
        return [int(expert) for expert in self.needed[np.argsort(self.counts[self.needed], kind="stable")]]


def run_prompt(cache: LayerCache, x: mx.array, indices: mx.array, *args: Any, **kwargs: Any) -> mx.array:
    """Computes the routed experts of many rows, exactly as chosen.

    Args:
        cache: The layer.
        x: `[..., D]`.
        indices: `[..., k]` expert numbers.
        *args: Passed on to the original module.
        **kwargs: Passed on to the original module.

    Returns:
        `[..., k, D]`.

    Raises:
        ExpertReadError: an expert could not be read; the cache stays consistent.
    """
    cache.claim()
    mx.eval(indices, cache.spans)
    cache.take_spans()

    def compute(rows: mx.array, slots: mx.array) -> mx.array:
        y: mx.array = cache.inner(rows, slots, *args, **kwargs)
        return y

    return visit(cache, x, indices, Pass(compute, cache.counter.step))


def visit(cache: LayerCache, x: mx.array, indices: mx.array, way: Pass) -> mx.array:
    """Brings in what many rows chose and computes with it, in as many waves as the slots need.

    Args:
        cache: The layer, claimed.
        x: `[..., D]`.
        indices: `[..., k]` expert numbers.
        way: What is done with them.

    Returns:
        `[..., k, D']`.

    Raises:
        ExpertReadError: as `run_prompt`.
    """
    with cache.event():
        chunk = _Chunk.of(np.array(indices).astype(np.int64), cache)
        run = _at_once if chunk.loose.size <= cache.table.free else _in_waves
        y, missed, bytes_read, waited = run(cache, x, chunk, way)
    if not way.again:
        np.frombuffer(cache.table.rows, dtype=np.int64)[:] += chunk.counts
    cache.table.stamp(chunk.rarest_first())
    hits = int(chunk.resident[chunk.needed].sum())
    cache.log.write(
        way.step,
        PREFILL,
        tokens=0 if way.again else chunk.chosen.size // chunk.chosen.shape[-1],
        hits=hits,
        misses=chunk.needed.size - hits,
        bytes_read=bytes_read,
        wait_ns=waited,
        read_backs=0 if way.again else 1,
        choices=0 if way.again else int(chunk.counts.sum()),
        read_waits=int(chunk.needed.size > hits),
        **cache.parts_of(missed),
    )
    return y


def _at_once(cache: LayerCache, x: mx.array, chunk: _Chunk, way: Pass) -> tuple[mx.array, list[Placement], int, int]:
    """All needed experts fit: one event, one call, the rarest touched first."""
    cache.bank.wait_for_queued()
    admission = cache.table.begin(chunk.rarest_first())
    bytes_read = waited = 0
    if admission.misses:
        bytes_read, waited = cache.pool.read(cache.spec.index, cache.table, cache.bank, admission.misses)
    slot_of = np.frombuffer(cache.table.slot_of, dtype=np.int32)
    y = way.compute(x, mx.array(np.maximum(slot_of[chunk.chosen], 0).astype(np.uint32)))
    cache.bank.using(y)
    return y, list(admission.misses), bytes_read, waited


def _plan(slots: int, chunk: _Chunk, low: bool) -> tuple[list[list[int]], set[int]]:
    """Splits a chunk's absent experts into waves and names the experts to keep throughout.

    The most used experts of the chunk stay for decode, but for `2 * width` slots that the waves pass through, half of
    them computing while the other half is filled. The rarest come first, the most used last, so that they remain.
    Beside low slots whole ones are few, and what gives way keeps its high bits: the waves take all of them.
    Pinned experts pass through no slot of others: those that are absent are the first wave.
    """
    width = max(1, slots // (2 if low else 4))
    needed, resident = chunk.loose, chunk.resident
    by_use = needed[np.argsort(-(chunk.counts[needed] * 2 + resident[needed]), kind="stable")]
    keep = set(by_use[: max(0, slots - 2 * width)].tolist())
    absent = [int(expert) for expert in by_use[::-1] if not resident[expert]]
    waves = [absent[start : start + width] for start in range(0, len(absent), width)]
    own = [int(expert) for expert in chunk.needed if chunk.pinned[expert] and not resident[expert]]
    return [own, *waves] if own else waves, keep


def _in_waves(cache: LayerCache, x: mx.array, chunk: _Chunk, way: Pass) -> tuple[mx.array, list[Placement], int, int]:
    """More experts than slots: what is resident computes first, then wave after wave."""
    table, bank, k = cache.table, cache.bank, chunk.chosen.shape[-1]
    flat_x, flat = x.reshape(-1, x.shape[-1]), chunk.chosen.reshape(-1)
    waves, keep = _plan(table.free, chunk, table.low > 0)
    present = [int(expert) for expert in chunk.needed if chunk.resident[expert]]
    outputs: list[mx.array] = []
    places: list[NDArray[np.intp]] = []
    missed: list[Placement] = []
    bytes_read = waited = 0
    bank.wait_for_queued()

    def compute(experts: list[int]) -> mx.array | None:
        slot_of = np.full(table.experts, -1, dtype=np.int64)
        for expert in experts:
            slot_of[expert] = table.slot_of[expert]
        place = np.flatnonzero(slot_of[flat] >= 0)
        if not place.size:
            return None
        rows = mx.array((place // k).astype(np.uint32))
        y = way.compute(flat_x[rows], mx.array(slot_of[flat[place]].astype(np.uint32))[:, None])
        way.queue(y)
        bank.using(y)
        outputs.append(y)
        places.append(place)
        return y

    def start(experts: list[int], busy: list[int]) -> Reads:
        kept = {table.slot_of[expert] for expert in keep if table.whole(expert)}
        protect = kept | {table.slot_of[expert] for expert in busy if table.whole(expert)}
        misses = table.begin(experts, protect).misses
        missed.extend(misses)
        return cache.pool.start(cache.spec.index, table, bank, misses)

    table.begin(present)
    # Slots of what is resident and goes on to be needed later must be free of queued work before they are refilled.
    computing, earlier = present, None
    running = compute(present) if present else None
    for wave in waves:
        # The wave before last has to be done: its slots are the ones that are refilled now.
        busy = computing if _room(keep, computing, wave, table) else []
        if earlier is not None:
            mx.eval(earlier)
        if not busy and running is not None:
            mx.eval(running)
        reads = start(wave, busy)
        waited += reads.finish()
        bytes_read += reads.bytes_read
        earlier, running, computing = running, compute(wave), wave
    here = [expert for expert in chunk.needed.tolist() if table.slot_of[expert] >= 0]
    table.touch(sorted(here, key=lambda expert: (chunk.counts[expert], expert)))
    order = np.argsort(np.concatenate(places))
    y = mx.concatenate(outputs, axis=0)[mx.array(order.astype(np.uint32))]
    y = y.reshape(*chunk.chosen.shape, y.shape[-1])
    bank.using(y)
    return y, missed, bytes_read, waited


def _room(keep: set[int], computing: list[int], wave: list[int], table: ResidencyTable) -> bool:
    """Whether the next wave fits beside what is kept and what is computing."""
    taken = {expert for expert in (*keep, *computing) if table.whole(expert) and not table.pinned[expert]}
    return table.free - len(taken) >= len(wave)
