"""What expert reads took: counts in fixed memory that Python's readers or the primitive write, and their summary."""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Reads under way together are counted up to one less; the last place stands for that and more.
DEPTHS = 65
#: Latencies are counted in quarters of an octave from one microsecond on; the last bucket holds all that took longer.
BUCKETS = 112
_LATENCIES = 2 + DEPTHS

Counts = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReadStats:
    """Expert reads that arrived whole: those of steps, of warm-up and of resizing.

    Latencies are of one expert, its digest check included, and known to within 10%: a bucket is a quarter of an octave
    (19%) wide and stands for its geometric middle. A depth is the number of reads under way as one starts, itself
    included; waiting for a reader thread is not.

    Attributes:
        io: How they were read: "cached", "direct", or "dropped" (cached, and dropped from the page cache afterwards).
        reads: Experts read.
        bytes: Bytes of those.
        depth_mean: Mean depth; 0 without reads.
        depth_max: Largest depth; 64 stands for more.
        p50_us: Median latency in microseconds; 0 without reads.
        p95_us: Its 95th percentile.
        p99_us: Its 99th percentile.
    """

    io: str
    reads: int = 0
    bytes: int = 0
    depth_mean: float = 0.0
    depth_max: int = 0
    p50_us: float = 0.0
    p95_us: float = 0.0
    p99_us: float = 0.0

    @classmethod
    def of(cls, counts: Sequence[int], io: str) -> ReadStats:
        """Sums up counts as `ReadLog` keeps them."""
        depths, latencies = counts[2:_LATENCIES], counts[_LATENCIES:]
        if not (seen := sum(latencies)):
            return cls(io)
        mean = sum(depth * count for depth, count in enumerate(depths)) / max(1, sum(depths))
        largest = max((depth for depth, count in enumerate(depths) if count), default=0)
        p50, p95, p99 = (_percentile(latencies, share * seen) for share in (0.5, 0.95, 0.99))
        return cls(io, counts[0], counts[1], mean, largest, p50, p95, p99)


def _percentile(latencies: Sequence[int], rank: float) -> float:
    passed = 0
    for bucket, count in enumerate(latencies):
        passed += count
        if count and passed >= rank:
            return float(2 ** ((bucket + 0.5) / 4))
    return 0.0


class ReadLog:
    """Counts of one group of reader threads: int64 `[2 + DEPTHS + BUCKETS]`, reads, bytes, depths, latencies.

    The primitive writes to `counts` by address, so that it never moves; nobody else writes then.
    """

    def __init__(self) -> None:
        self.counts = array("q", [0]) * (_LATENCIES + BUCKETS)
        self._running = 0
        self._lock = threading.Lock()

    def begin(self) -> int:
        """Notes that a read starts and returns its depth."""
        with self._lock:
            self._running += 1
            return self._running

    def end(self, depth: int, nbytes: int, nanoseconds: int) -> None:
        """Notes that a read ended; `nbytes` 0: it failed, and is not counted."""
        octaves = math.log2(nanoseconds / 1000) if nanoseconds > 1000 else 0.0
        with self._lock:
            self._running -= 1
            if nbytes:
                self.counts[0] += 1
                self.counts[1] += nbytes
                self.counts[2 + min(depth, DEPTHS - 1)] += 1
                self.counts[_LATENCIES + min(int(4 * octaves), BUCKETS - 1)] += 1


class ReadTotals:
    """The counts of several logs since the last reset; the logs themselves only grow.

    Args:
        log: The first of them.
        way: Says how reads are done, as `ReadStats.io`.
    """

    def __init__(self, log: ReadLog, way: Callable[[], str]) -> None:
        self.logs = [log]
        self._way = way
        self._base: Counts = (0,) * len(log.counts)

    def counts(self) -> Counts:
        """Returns the counts since the last reset, as `ReadLog` lays them out."""
        return tuple(now - then for now, then in zip(self._sums(), self._base, strict=True))

    def since(self, before: Sequence[int]) -> ReadStats:
        """Sums up what was read since `before`, from `counts`."""
        return ReadStats.of([now - then for now, then in zip(self.counts(), before, strict=True)], self._way())

    def stats(self) -> ReadStats:
        """Sums up what was read since the last reset."""
        return ReadStats.of(self.counts(), self._way())

    def reset(self) -> None:
        """Counts from here on."""
        self._base = self._sums()

    def _sums(self) -> Counts:
        return tuple(map(sum, zip(*(log.counts for log in self.logs), strict=True)))
