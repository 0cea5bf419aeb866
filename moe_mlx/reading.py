"""Demand reads: the misses of one event, issued together over a few reader threads, straight into slot memory.

Reader threads only read and digest; MLX belongs to the thread that called.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

from moe_mlx.residency import Placement, ResidencyTable
from moe_mlx.store import ExpertSource

#: Reads in flight at once. One SSD queue is filled by a handful; more only adds switching (`moe-mlx bench io`).
DEFAULT_READERS = 4


class SlotMemory(Protocol):
    """Where an expert's bytes go."""

    def buffers(self, slot: int) -> list[memoryview]:
        """Returns the writable bytes of a slot, one view per tensor."""


class Reads:
    """Reads under way for one layer. `finish` makes the slots valid; nothing else may."""

    def __init__(self, table: ResidencyTable) -> None:
        self._table = table
        self._running: list[tuple[Placement, Future[int]]] = []
        self.bytes_read = 0

    def add(self, placement: Placement, future: Future[int]) -> None:
        """Notes one read."""
        self._running.append((placement, future))

    def finish(self) -> int:
        """Waits for all reads, commits what arrived whole, forgets the rest.

        Returns:
            Nanoseconds that the caller stood still.

        Raises:
            ExpertReadError: the first read that failed; the others are accounted for all the same.
        """
        started = time.perf_counter_ns()
        failure: BaseException | None = None
        try:
            wait([future for _, future in self._running])
        except BaseException as interruption:  # a reader may still be writing: no slot is given back before it ends
            failure = interruption
            for _, future in self._running:
                future.cancel()
            wait([future for _, future in self._running])
        for placement, future in self._running:
            error = None if future.cancelled() else future.exception()
            if future.cancelled() or error is not None:
                self._table.forget(placement.slot)
                failure = failure or error
            else:
                self._table.commit(placement)
                self.bytes_read += future.result()
        self._running.clear()
        if failure is not None:
            raise failure
        return time.perf_counter_ns() - started


class ReaderPool:
    """A few threads that read experts of one source."""

    def __init__(self, source: ExpertSource, readers: int = DEFAULT_READERS) -> None:
        self.source, self.readers = source, readers
        self._threads = ThreadPoolExecutor(max_workers=readers, thread_name_prefix="moe-mlx-read")

    def start(self, index: int, table: ResidencyTable, memory: SlotMemory, misses: Sequence[Placement]) -> Reads:
        """Issues the reads of `misses` of MoE layer `index` and returns at once."""
        reads = Reads(table)
        for placement in misses:
            buffers = memory.buffers(placement.slot)
            reads.add(placement, self._threads.submit(self.source.read_into, index, placement.expert, buffers))
        return reads

    def read(
        self, index: int, table: ResidencyTable, memory: SlotMemory, misses: Sequence[Placement]
    ) -> tuple[int, int]:
        """Reads `misses` and makes their slots valid.

        Returns:
            Bytes read, and nanoseconds waited.

        Raises:
            ExpertReadError: a read failed; its slot is left empty.
        """
        reads = self.start(index, table, memory, misses)
        waited = reads.finish()
        return reads.bytes_read, waited

    def close(self) -> None:
        """Ends the threads after the reads under way."""
        self._threads.shutdown(wait=True)
