"""Prefetch as an axis of the bench: names of rows, what is kept for `--prefetch auto`, columns."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.benchmark.compare import compare
from moe_mlx.benchmark.grading import keep_rates, prefetch_gain
from moe_mlx.benchmark.report import bench_table
from moe_mlx.benchmark.results import BenchResult, Spread, read_result
from moe_mlx.benchmark.settings import BenchSetting, sweep
from moe_mlx.cli import main
from moe_mlx.errors import UsageError
from moe_mlx.native import build
from moe_mlx.native.toolchain import NativeUnavailableError
from moe_mlx.planning.shape import local_shape
from moe_mlx.system.calibration import read_calibration


def test_rows_without_it_keep_their_names():
    off, on = sweep("50%", "exact", "0.1", "native", "cached", "warm", "off,on")
    assert (
        off.key == BenchSetting("50%", "exact", None, "native", "cached", "warm").key == "50% exact native cached warm"
    )
    assert on.key == "50% exact native cached warm prefetch-on"
    assert [setting.prefetch for setting in sweep("100%", "exact", "0.1", "auto", "cached", "warm", "off,on")] == [
        "off"
    ]
    with pytest.raises(UsageError, match="--prefetch"):
        sweep("50%", "exact", "0.1", "native", "cached", "warm", "sometimes")


@pytest.fixture(scope="module")
def measured(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchResult, Path]:
    try:
        build.load_native(print)
    except NativeUnavailableError as error:
        pytest.skip(f"no in-graph decode here: {error}")
    out = tmp_path_factory.mktemp("prefetch") / "bench.json"
    words = "-p 8 -g 12 -n 1 --expert-cache 25% --routing exact --decode native --baseline none --prefetch off,on"
    assert main(["bench", "--model", str(store), *words.split(), "--json", str(out)]) == 0
    return read_result(out), out


@pytest.mark.slow
def test_both_ways_read_for_the_same_misses(measured: tuple[BenchResult, Path]):
    result, path = measured
    off, on = result.rows
    assert (off.setting.prefetch, on.setting.prefetch) == ("off", "on")
    for name in ("hit_rate", "bytes_per_token", "misses_per_token", "swapped_share", "steps"):
        assert getattr(off, name) == getattr(on, name)
    assert (off.prefetched, off.hint_precision, off.hint_recall, off.wasted_bytes_per_token) == (False, 0, 0, 0)
    assert on.prefetched
    assert 0 < on.hint_recall <= 1 >= on.hint_precision > 0
    lines = bench_table(result).splitlines()
    assert any("wasted" in line for line in lines)
    assert not any("wasted" in line for line in bench_table(replace(result, rows=(off,))).splitlines())
    older = json.loads(path.read_text())
    for row in older["rows"]:
        for name in ("prefetched", "hint_precision", "hint_recall", "wasted_bytes_per_token"):
            del row[name]
        del row["setting"]["prefetch"]
    older["rows"] = older["rows"][:1]
    path.with_name("older.json").write_text(json.dumps(older))
    before = read_result(path.with_name("older.json"))
    assert {change.key for change in compare(before, result, 0.05)} == {off.setting.key}


def test_the_gain_is_kept(measured: tuple[BenchResult, Path], store: Path, own_cache: Path):
    result, _ = measured
    off, on = result.rows

    def at(row: Any, median: float, share: float | None = None) -> Any:
        return replace(row, decode_tps=Spread(median, median - 1, median + 1), decode_share=share)

    assert prefetch_gain(replace(result, rows=(at(off, 10), at(on, 15)))) == 1.5
    assert prefetch_gain(replace(result, rows=(at(off, 10, 0.8), at(on, 15, 0.4)))) == 0.5  # the baselines differed
    assert prefetch_gain(replace(result, rows=(at(off, 10), at(on, 11.9)))) == 1.0  # their trials overlap
    assert prefetch_gain(replace(result, rows=(off,))) is None
    assert prefetch_gain(replace(result, rows=(off, replace(on, prefetched=False)))) is None
    shape = local_shape(store)
    said = keep_rates(replace(result, rows=(at(off, 10), at(on, 15))), shape)
    assert "prefetch 1.50x (auto is on)" in said
    kept = read_calibration()
    assert kept is not None
    assert kept.prefetch_gain == 1.5
    assert kept.weight_rate is None
    with pytest.raises(UsageError, match="baseline"):
        keep_rates(replace(result, rows=(off,)), shape)
