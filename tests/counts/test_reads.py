"""Depth and latency of reads: counted in fixed memory, merged over readers, and known to within a bucket."""

import numpy as np
import pytest

from moe_mlx.counts.reads import BUCKETS, DEPTHS, ReadLog, ReadStats, ReadTotals


def test_percentiles_are_within_ten_percent():
    log = ReadLog()
    took = np.exp(np.random.default_rng(0).normal(13, 2, 5000)).astype(np.int64) + 1000  # nanoseconds, microseconds on
    for nanoseconds in took.tolist():
        log.end(log.begin(), 10, nanoseconds)
    found = ReadStats.of(log.counts, "cached")
    assert (found.reads, found.bytes, found.depth_max, found.depth_mean) == (5000, 50_000, 1, 1.0)
    for percent, told in ((50, found.p50_us), (95, found.p95_us), (99, found.p99_us)):
        assert told == pytest.approx(np.percentile(took, percent, method="inverted_cdf") / 1000, rel=0.1)


def test_the_memory_never_grows_and_nothing_falls_out_of_it():
    log = ReadLog()
    address, length = log.counts.buffer_info()
    for nanoseconds in (0, 1, 999, 1000, 10**9, 10**14, 2**62):
        log.end(500, 1, nanoseconds)
    assert log.counts.buffer_info() == (address, length) == (address, 2 + DEPTHS + BUCKETS)
    assert sum(log.counts[2 + DEPTHS :]) == 7
    assert ReadStats.of(log.counts, "direct").depth_max == DEPTHS - 1


def test_depth_is_what_is_under_way_and_failures_do_not_count():
    log = ReadLog()
    first, second = log.begin(), log.begin()
    log.end(second, 0, 5)
    third = log.begin()
    assert (first, second, third) == (1, 2, 2)
    log.end(first, 8, 5000)
    log.end(third, 8, 5000)
    found = ReadStats.of(log.counts, "cached")
    assert (found.reads, found.depth_mean, found.depth_max) == (2, 1.5, 2)
    assert log.begin() == 1


def test_logs_are_merged_and_reset_forgets_what_was():
    one, other = ReadLog(), ReadLog()
    totals = ReadTotals(one, lambda: "dropped")
    assert totals.stats() == ReadStats("dropped")
    totals.logs.append(other)
    one.end(7, 3, 2_000_000)
    other.end(2, 4, 2_000)
    assert (totals.stats().reads, totals.stats().bytes, totals.stats().depth_max) == (2, 7, 7)
    before = totals.counts()
    other.end(1, 5, 2_000)
    assert (totals.since(before).reads, totals.since(before).bytes, totals.since(before).depth_max) == (1, 5, 1)
    totals.reset()
    assert totals.stats() == ReadStats("dropped")
