"""Demand reads: the misses of one event, issued together over a few reader threads, straight into slot memory.

Reader threads only read and digest; MLX belongs to the thread that called.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from moe_mlx.counts.reads import ReadLog
from moe_mlx.errors import ExpertReadError
from moe_mlx.expert_cache.residency import PART_WORDS, QUARANTINED, WHOLE, Placement, ResidencyTable
from moe_mlx.store import ExpertSource
from moe_mlx.store.store import StoreSource
from moe_mlx.system.calibration import DEFAULT_READERS
from moe_mlx.system.threads import granted, started_pool

if TYPE_CHECKING:
    from moe_mlx.expert_cache.low_slots import LowSlots

#: A disk that sleeps wakes up in seconds; a read longer than this ends the turn instead of hanging it.
STALL_SECONDS = 60.0


class SlotMemory(Protocol):
    """Where an expert's bytes go."""

    @property
    def low(self) -> LowSlots | None:
        """Where those of a part of an expert go."""

    def buffers(self, slot: int) -> list[memoryview]:
        """Returns the writable bytes of a slot, one view per tensor."""


class Reads:
    """Reads under way for one layer. `finish` makes the slots valid; nothing else may.

    A slot is known to be written to by the thread that writes, not by the one that asked for it: an exception may end
    the latter anywhere, and the table's next event then calls `give_up`.
    """

    def __init__(self, table: ResidencyTable, explain: Callable[[int, str], ExpertReadError], limit: float) -> None:
        self._table, self._explain, self._limit = table, explain, limit
        self._running: list[tuple[Placement, Future[int]]] = []
        self._writing: set[int] = set()
        self._open = True
        self._ended = threading.Condition()
        self.bytes_read = 0
        table.unfinished = self.give_up

    def add(self, placement: Placement, future: Future[int]) -> None:
        """Notes one read."""
        self._running.append((placement, future))

    @contextmanager
    def writing(self, slot: int) -> Iterator[bool]:
        """Surrounds a read, in the thread that reads; False where it is too late for it."""
        with self._ended:
            if wanted := self._open:
                self._writing.add(slot)
        try:
            yield wanted
        finally:
            with self._ended:
                if wanted:
                    self._writing.discard(slot)
                    if not self._open and self._table.used[slot] == QUARANTINED:
                        self._table.forget(slot)
                self._ended.notify_all()

    def give_up(self) -> None:
        """Lets no read begin any more and waits for those that write; a stalled one keeps its slot until it ends."""
        with self._ended:
            self._open = False
            self._ended.wait_for(lambda: not self._writing, self._limit)
            for slot in self._writing:
                self._table.quarantine(slot)
        for placement, _ in self._running:
            if self._table.owner[placement.slot] < 0 and self._table.used[placement.slot] != QUARANTINED:
                self._table.forget(placement.slot)

    def finish(self, first: int | None = None) -> int:
        """Waits for reads, commits what arrived whole, forgets the rest.

        Args:
            first: How many of those that are left, the first ones; by default all.

        Returns:
            Nanoseconds that the caller stood still.

        Raises:
            ExpertReadError: the first read that failed or stalled; the others are accounted for all the same. The slot
                of a stalled read stays out of use until that read ends.
        """
        started = time.perf_counter_ns()
        failure: BaseException | None = None
        running = self._running[:first]
        futures = [future for _, future in running]
        if wait(futures, timeout=self._limit).not_done:
            for future in futures:
                future.cancel()
            with self._ended:
                self._open = False
                for slot in self._writing:
                    self._table.quarantine(slot)
        for placement, future in running:
            if future.cancelled() or not future.done() or isinstance(future.exception(), CancelledError):
                error: BaseException | None = self._stalled(placement)
            elif (error := future.exception()) is None:
                self._table.commit(placement)
                self.bytes_read += future.result()
            if error is not None and self._table.used[placement.slot] != QUARANTINED:
                self._table.forget(placement.slot)
            failure = failure or error
        del self._running[: len(running)]
        if not self._running:
            self._table.unfinished = None
        if failure is not None:
            raise failure
        return time.perf_counter_ns() - started

    def _stalled(self, placement: Placement) -> ExpertReadError:
        words = PART_WORDS[placement.part]
        return self._explain(placement.expert, f"{words}no answer from the disk in {self._limit:g} s")


class ReaderPool:
    """A few threads that read experts of one source; `readers` is how many the system granted."""

    def __init__(
        self, source: ExpertSource, readers: int = DEFAULT_READERS, stall_seconds: float = STALL_SECONDS
    ) -> None:
        self.source, self.readers, self.stall_seconds = source, granted(readers), stall_seconds
        self.log = ReadLog()
        self._threads = started_pool(self.readers, "moe-mlx-read")

    def start(self, index: int, table: ResidencyTable, memory: SlotMemory, misses: Sequence[Placement]) -> Reads:
        """Issues the reads of `misses` of MoE layer `index` and returns at once."""

        def explain(expert: int, reason: str) -> ExpertReadError:
            where = self.source.byte_ranges(index, expert)[0].path
            return ExpertReadError(self.source.layers[index].layer, expert, where, reason)

        reads = Reads(table, explain, self.stall_seconds)
        for placement in misses:
            buffers = memory.buffers(placement.slot) if placement.part == WHOLE else []
            reads.add(placement, self._threads.submit(self._read, reads, index, placement, buffers, memory.low))
        return reads

    def _read(
        self, reads: Reads, index: int, placement: Placement, buffers: list[memoryview], low: LowSlots | None
    ) -> int:
        with reads.writing(placement.slot) as wanted:
            if not wanted:
                raise CancelledError
            depth, nbytes, started = self.log.begin(), 0, time.perf_counter_ns()
            try:
                if placement.part == WHOLE:
                    nbytes = self.source.read_into(index, placement.expert, buffers)
                else:
                    assert low is not None and isinstance(self.source, StoreSource)
                    nbytes = low.read(self.source, index, placement)
            finally:
                self.log.end(depth, nbytes, time.perf_counter_ns() - started)
            return nbytes

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

    def wait_idle(self) -> None:
        """Waits until every read under way has ended, those that were given up as stalled included."""
        busy = threading.Barrier(self.readers + 1)
        for _ in range(self.readers):
            self._threads.submit(busy.wait)
        busy.wait()

    def close(self, *, wait: bool = True) -> None:
        """Ends the threads after the reads under way; `wait` for that."""
        self._threads.shutdown(wait=wait)
