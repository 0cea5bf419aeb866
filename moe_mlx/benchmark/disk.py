"""The disk alone: how fast an expert gets from its file into slot memory, beside plain preadv and beside mx.load."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from moe_mlx.benchmark.plain import plain_times
from moe_mlx.benchmark.results import Spread
from moe_mlx.benchmark.sample import Event
from moe_mlx.errors import UsageError
from moe_mlx.expert_cache.eviction import LeastRecentlyUsed
from moe_mlx.expert_cache.reading import ReaderPool
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx.expert_cache.slots import SlotBank, dtype_of
from moe_mlx.store import ExpertLayer, ExpertSource, digest
from moe_mlx.store.access import CACHED
from moe_mlx.store.files import drop_pages, open_regular
from moe_mlx.store.page_cache import page_cache_use
from moe_mlx.system.calibration import DEFAULT_READERS

#: A reader count is enough when it reaches this much of the best rate.
_ENOUGH = 0.95

PLAIN, DEMAND, CHECKED, LOADED = "plain preadv", "demand path", "demand path + digest", "mx.load + assignment"


@dataclass(frozen=True, slots=True)
class IoRow:
    """One way of reading: bytes a second, over the trials; `event_ms` is the median and the 95th percentile.

    `io` is as `Access.way`; `page_cache` the share of the sample that the page cache held after the last trial, None
    where the system does not tell.
    """

    method: str
    threads: int
    cold: bool
    rate: Spread
    event_ms: tuple[float, float]
    io: str = CACHED
    page_cache: float | None = None


class DiskBench:
    """Reads the same events in several ways.

    Args:
        source: A store or checkpoint.
        events: What to read.
    """

    def __init__(self, source: ExpertSource, events: Sequence[Event]) -> None:
        if not events:
            raise UsageError("the model has fewer experts a layer than one event reads: give a smaller --batch")
        self.source, self.events = source, events
        self.layer: ExpertLayer = source.layers[events[0].index]
        self.batch = len(events[0].experts)
        self.bank = SlotBank(self.layer.tensors, self.batch)
        self.buffers = [self.bank.buffers(slot) for slot in range(self.batch)]
        self.nbytes = sum(source.stored_nbytes(event.index, expert) for event in events for expert in event.experts)

    def page_cache(self) -> float | None:
        """Returns the share of the sample that the page cache holds; None where the system does not tell."""
        use = page_cache_use(self.source, [(event.index, expert) for event in self.events for expert in event.experts])
        return None if use is None else use.share

    def drop(self) -> None:
        """Asks the system to forget the sampled experts."""
        for event in self.events:
            for expert in event.experts:
                for span in self.source.byte_ranges(event.index, expert):
                    fd = open_regular(span.path)
                    drop_pages(fd, span.offset, span.nbytes)
                    os.close(fd)

    def plain(self, threads: int) -> list[float]:
        """Times plain preadv by as many threads."""
        return plain_times(self.source, self.events, self.buffers, threads)

    def demand(self, threads: int, *, check: bool) -> list[float]:
        """Times the runtime's own path: a reader pool into the slots, digests checked or not."""
        pool = ReaderPool(self.source, threads)
        before, self.source.verify = self.source.verify, check
        table = ResidencyTable(self.layer.experts, self.batch, LeastRecentlyUsed())
        times = []
        try:
            for event in self.events:
                table.reset()
                misses = table.begin(event.experts).misses
                started = time.perf_counter()
                pool.read(event.index, table, self.bank, misses)
                times.append(time.perf_counter() - started)
        finally:
            self.source.verify = before
            pool.close()
        return times

    def loaded(self) -> list[float]:
        """Times `mx.load` of each expert's file and assignment into a bank; a store only."""
        arrays = [mx.zeros((self.batch, *spec.shape), dtype_of(spec)) for spec in self.layer.tensors]
        mx.eval(arrays)

        def read(event: Event) -> None:
            for slot, expert in enumerate(event.experts):
                found = mx.load(str(self.source.byte_ranges(event.index, expert)[0].path))
                for array, spec in zip(arrays, self.layer.tensors, strict=True):
                    array[slot] = found[spec.name]
            mx.eval(arrays)

        return self._timed(read)

    def digest_rate(self) -> float:
        """Returns the bytes a second of digesting an expert that is in memory."""
        started, rounds = time.perf_counter(), 0
        while time.perf_counter() - started < 0.2:
            digest.of(self.buffers[rounds % self.batch])
            rounds += 1
        return rounds * self.layer.expert_nbytes / (time.perf_counter() - started)

    def _timed(self, read: Callable[[Event], None]) -> list[float]:
        times = []
        for event in self.events:
            started = time.perf_counter()
            read(event)
            times.append(time.perf_counter() - started)
        return times


def measure(
    bench: DiskBench, threads: Sequence[int], trials: int, *, cold: bool, progress: Callable[[str], None]
) -> list[IoRow]:
    """Times every way at every thread count, the ways alternating trial by trial."""
    stored = not bench.source.in_place
    ways: list[tuple[str, int, Callable[[], list[float]]]] = []
    for count in threads:
        ways.append((PLAIN, count, lambda n=count: bench.plain(n)))  # type: ignore[misc]
        ways.append((DEMAND, count, lambda n=count: bench.demand(n, check=False)))  # type: ignore[misc]
        if stored:
            ways.append((CHECKED, count, lambda n=count: bench.demand(n, check=True)))  # type: ignore[misc]
    if any(layout.rearranged for layout in bench.source.layouts) or bench.source.bits:
        progress(f"{LOADED} is left out: it does not join the parts of this store's experts")
    elif stored and not cold:
        ways.append((LOADED, 1, bench.loaded))
    found: dict[tuple[str, int], list[list[float]]] = {}
    held: dict[tuple[str, int], float | None] = {}
    for trial in range(trials):
        for name, count, way in ways if trial % 2 == 0 else ways[::-1]:
            progress(f"{'cold' if cold else 'warm'}, trial {trial + 1} of {trials}: {name} x {count}")
            bench.source.drop_cached() if cold and trial == 0 else None
            bench.drop() if cold else _warm(bench, trial)
            found.setdefault((name, count), []).append(way())
            held[name, count] = bench.page_cache()
    rows = []
    for name, count, _ in ways:
        runs = found[name, count]
        events = np.array(runs).reshape(-1) * 1e3
        rates = Spread.of([bench.nbytes / sum(run) for run in runs])
        times = float(np.percentile(events, 50)), float(np.percentile(events, 95))
        rows.append(IoRow(name, count, cold, rates, times, bench.source.access.way, held[name, count]))
    return rows


def _warm(bench: DiskBench, trial: int) -> None:
    """Brings the sample into the page cache once; reading keeps it there."""
    if trial == 0:
        bench.demand(DEFAULT_READERS, check=False)


def enough_readers(rows: Sequence[IoRow]) -> int:
    """Returns the smallest thread count at which the demand path is about as fast as it gets, cold where measured.

    Rows of the first way of reading decide.
    """
    demand = [row for row in rows if row.method == DEMAND and row.io == rows[0].io]
    demand = [row for row in demand if row.cold] or demand
    best = max(row.rate.median for row in demand)
    return min(row.threads for row in demand if row.rate.median >= _ENOUGH * best)
