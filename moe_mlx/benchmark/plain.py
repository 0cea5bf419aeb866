"""The yardstick of the disk: plain preadv by a number of threads, files open beforehand."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from moe_mlx.benchmark.sample import Event
from moe_mlx.errors import UsageError
from moe_mlx.store import ByteRange, ExpertSource


def plain_times(
    source: ExpertSource, events: Sequence[Event], buffers: Sequence[Sequence[memoryview]], threads: int
) -> list[float]:
    """Times preadv of each event's experts, each thread a fixed part of each event.

    Direct reads that need alignment go into memory that has it, in pieces that begin and end at blocks: nothing is
    copied, whatever the demand path has to do.

    Args:
        source: Read as its `access` says.
        events: What to read.
        buffers: For each place of an event, one view per tensor.
        threads: That read.

    Returns:
        Seconds of each event.

    Raises:
        UsageError: a file is shorter than its header says.
    """
    whole = sum(view.nbytes for view in buffers[0])
    with _opened(source, events) as descriptors, ThreadPoolExecutor(threads) as pool:
        blocks = [_blocks(whole + 2 * source.access.block) for _ in buffers if source.access.block > 1]

        def part(event: Event, first: int) -> None:
            for place in range(first, len(event.experts), threads):
                done = 0
                for span in source.byte_ranges(event.index, event.experts[place]):
                    views: list[memoryview] = []
                    while (left := span.nbytes - sum(view.nbytes for view in views)) > 0:
                        views.append(buffers[place][done][:left])  # a narrow expert is shorter than its slot
                        done += 1
                    assert left == 0
                    if blocks:
                        got = _read_blocks(descriptors[span], blocks[place], span, source.access.block)
                    else:
                        got = source.access.fill(descriptors[span], views, span.offset)
                    if got < span.nbytes:
                        raise UsageError(f"{span.path}: shorter than its header says")

        times = []
        for event in events:
            started = time.perf_counter()
            list(pool.map(part, [event] * threads, range(threads)))
            times.append(time.perf_counter() - started)
        return times


def _blocks(nbytes: int) -> memoryview:
    """Returns memory that begins at a page and is there already."""
    memory = mmap.mmap(-1, nbytes)
    memory.write(bytes(nbytes))
    return memoryview(memory)


def _read_blocks(fd: int, memory: memoryview, span: ByteRange, block: int) -> int:
    """Reads the blocks that hold a range and returns how much of the range they gave."""
    start = span.offset // block * block
    stop = -(-(span.offset + span.nbytes) // block) * block
    done = 0
    while start + done < span.offset + span.nbytes:
        if (n := os.preadv(fd, [memory[done : stop - start]], start + done)) == 0:
            break
        done += n
    return start + done - span.offset


@contextmanager
def _opened(source: ExpertSource, events: Sequence[Event]) -> Iterator[dict[ByteRange, int]]:
    files: dict[str, int] = {}
    spans: dict[ByteRange, int] = {}
    try:
        for event in events:
            for expert in event.experts:
                for span in source.byte_ranges(event.index, expert):
                    path = str(span.path)
                    if path not in files:
                        files[path] = source.access.open(path)
                    spans[span] = files[path]
        yield spans
    finally:
        for fd in files.values():
            os.close(fd)
