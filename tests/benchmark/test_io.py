"""`bench io`: every way reads the same bytes to the same place, and what is kept is kept."""

from pathlib import Path

import pytest

from moe_mlx.benchmark import calibration
from moe_mlx.benchmark.calibration import read_calibration, store_calibration
from moe_mlx.benchmark.disk import DEMAND, PLAIN, Bench, IoRow, enough_readers, sample_events
from moe_mlx.benchmark.results import Spread
from moe_mlx.cli import main
from moe_mlx.store import open_source


@pytest.mark.parametrize("threads", [1, 3])
def test_plain_and_demand_read_the_same(store: Path, checkpoint: Path, threads: int):
    for folder in (store, checkpoint):
        with open_source(folder) as source:
            bench = Bench(source, sample_events(source, 2, 10**9))
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


def test_where_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration.calibration_path() == tmp_path / "moe-mlx" / "calibration.json"


def test_the_fewest_readers_that_are_enough():
    def row(threads: int, rate: float, cold: bool = True, method: str = DEMAND) -> IoRow:
        return IoRow(method, threads, cold, Spread(rate, rate, rate), (1.0, 1.0))

    rows = [row(1, 50), row(2, 96), row(4, 100), row(8, 99), row(1, 500, cold=False), row(16, 900, method=PLAIN)]
    assert enough_readers(rows) == 2


@pytest.mark.parametrize("words", [["--threads", "0"], ["--threads", "x"], ["--batch", "0"], ["--batch", "999"]])
def test_arguments_that_cannot_be_taken(store: Path, words: list[str]):
    assert main(["bench", "io", str(store), *words]) == 2
