"""`bench io`: every way reads the same bytes to the same place, and what is kept is kept."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from moe_mlx.benchmark.disk import CHECKED, DEMAND, PLAIN, DiskBench, IoRow, enough_readers
from moe_mlx.benchmark.results import Spread
from moe_mlx.benchmark.sample import sample_events
from moe_mlx.cli import main
from moe_mlx.errors import MoeMlxError, UsageError
from moe_mlx.store import open_source
from moe_mlx.store.probe import use_io
from moe_mlx.system import calibration
from moe_mlx.system.calibration import read_calibration, readers_for, store_calibration


@pytest.mark.parametrize("threads", [1, 3])
def test_plain_and_demand_read_the_same(store: Path, checkpoint: Path, threads: int):
    for folder in (store, checkpoint):
        with open_source(folder) as source:
            bench = DiskBench(source, sample_events(source, 2, 10**9))
            wanted = bytearray(source.layers[0].expert_nbytes)
            last = bench.events[-1]
            for read in (lambda: bench.plain(threads), lambda: bench.demand(threads, check=True)):  # noqa: B023
                for slot in range(bench.batch):
                    for view in bench.buffers[slot]:
                        view[:] = bytes(view.nbytes)
                assert len(read()) == len(bench.events)
                found = sorted(b"".join(map(bytes, bench.buffers[slot])) for slot in range(bench.batch))
                expected = []
                for expert in last.experts:
                    parts, at = [], 0
                    for spec in bench.layer.tensors:
                        parts.append(memoryview(wanted)[at : at + spec.nbytes])
                        at += spec.nbytes
                    source.read_into(last.index, expert, parts)
                    expected.append(bytes(wanted))
                assert found == sorted(expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_yardstick_of_direct_reads_reads_every_byte_and_copies_none(
    store: Path, checkpoint: Path, threads: int, monkeypatch: pytest.MonkeyPatch
):
    whole, read = os.preadv, []

    def counted(fd: int, views: list[memoryview], offset: int) -> int:
        read.append((os.fstat(fd).st_ino, offset, n := whole(fd, views, offset)))
        return n

    for folder in (store, checkpoint):
        with open_source(folder) as source:
            if use_io(source, "direct").way != "direct":
                pytest.skip(source.access.reason)
            bench = DiskBench(source, sample_events(source, 2, 10**9))
            monkeypatch.setattr(os, "preadv", counted)
            assert len(bench.plain(threads)) == len(bench.events)
            monkeypatch.undo()
            for event in bench.events:
                for expert in event.experts:
                    for span in source.byte_ranges(event.index, expert):
                        inode, end = span.path.stat().st_ino, span.offset + span.nbytes
                        assert any(i == inode and at <= span.offset and at + n >= end for i, at, n in read)
            read.clear()


def test_direct_rows_are_cold_and_leave_nothing(store: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "io", str(store), "-n", "1", "--threads", "2", "--json", "-"]) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)["rows"]
    other = [row for row in rows if row["io"] != "cached"]
    assert [row["method"] for row in other] == [PLAIN, DEMAND, CHECKED]
    assert all(row["cold"] for row in other)
    if other[0]["io"] != "direct":
        assert "no direct reads here" in captured.err
    else:
        assert all(row["page_cache"] in (0.0, None) for row in other)
    assert all(row["page_cache"] is None or row["page_cache"] > 0.9 for row in rows if row["io"] == "cached")


@pytest.mark.parametrize(("calibrated", "given", "readers"), [(None, "auto", 4), (7, "auto", 7), (7, "2", 2)])
def test_readers_are_those_calibrated(calibrated: int | None, given: str, readers: int):
    if calibrated is not None:
        store_calibration(readers=calibrated)
    assert readers_for(given) == readers
    for wrong in ("0", "-1", "many", "1.5", ""):
        with pytest.raises(UsageError, match="--readers"):
            readers_for(wrong)


def test_no_expert_is_sampled_twice(store: Path):
    with open_source(store) as source:
        events = sample_events(source, 2, 10**9)
        names = [(event.index, expert) for event in events for expert in event.experts]
        assert len(names) == len(set(names)) == sum(layer.experts for layer in source.layers)


def test_the_command_calibrates(store: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "io", str(store), "-n", "1", "--threads", "1,2", "--calibrate"]) == 0
    out = capsys.readouterr().out
    assert "mx.load + assignment" in out and "demand path + digest" in out
    found = read_calibration()
    assert found is not None and found.readers in (1, 2) and found.cold_rate and found.warm_rate
    assert own_cache.is_file()
    store_calibration(weight_rate=5.0)
    again = read_calibration()
    assert again is not None and (again.weight_rate, again.readers) == (5.0, found.readers)


def test_a_calibration_that_is_damaged_is_none(own_cache: Path):
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text("[")
    assert read_calibration() is None
    own_cache.write_text('{"readers": "many", "date": 3, "weight_rate": 5.0}')
    assert read_calibration() == calibration.Calibration(weight_rate=5.0)


def test_a_cache_folder_that_cannot_be_written_is_said(own_cache: Path):
    own_cache.parent.parent.mkdir(parents=True, exist_ok=True)
    own_cache.parent.write_text("a file")
    with pytest.raises(MoeMlxError, match="not kept"):
        store_calibration(weight_rate=5.0)


def test_where_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration.calibration_path() == tmp_path / "moe-mlx" / "calibration.json"


def test_the_fewest_readers_that_are_enough():
    def row(threads: int, rate: float, cold: bool = True, method: str = DEMAND) -> IoRow:
        return IoRow(method, threads, cold, Spread(rate, rate, rate), (1.0, 1.0))

    rows = [row(1, 50), row(2, 96), row(4, 100), row(8, 99), row(1, 500, cold=False), row(16, 900, method=PLAIN)]
    assert enough_readers(rows) == 2
    direct = [replace(row, io="direct", rate=Spread(500.0, 500.0, 500.0)) for row in rows]
    assert enough_readers([*rows, *direct]) == 2


@pytest.mark.parametrize("words", [["--threads", "0"], ["--threads", "x"], ["--batch", "0"], ["--batch", "999"]])
def test_arguments_that_cannot_be_taken(store: Path, words: list[str]):
    assert main(["bench", "io", str(store), *words]) == 2
