"""Light experts as an axis of the bench: names of rows, counts of who was late, columns, a family that waits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moe_mlx.benchmark.compare import compare
from moe_mlx.benchmark.report import bench_table
from moe_mlx.benchmark.results import BenchResult, read_result
from moe_mlx.benchmark.settings import BenchSetting, sweep
from moe_mlx.cli import main
from moe_mlx.errors import UsageError
from tests.checkpoints import tiny_checkpoint

PLAIN = ("50%", "exact", "0.1", "native", "cached", "warm")
COUNTS = ("late_per_token", "late_weight", "read_waits_per_token", "waits_saved_per_token")


def test_rows_that_wait_keep_their_names():
    waits, near, far = sweep(*PLAIN, lights="exact,late", beyonds="0.3", distances="1,2")
    assert waits == BenchSetting("50%", "exact", None, "native", "cached", "warm")
    assert waits.key == "50% exact native cached warm"
    assert near.key == "50% exact, light late beyond 0.3 native cached warm"
    assert far.key == "50% exact, light late beyond 0.3, 2 layers on native cached warm"
    assert [row.distance for row in sweep(*PLAIN, lights="coarse,late-coarse", distances="1,2")] == [1, 1, 2]
    whole = sweep("100%", "exact,cache-prior", *PLAIN[2:], lights="exact,late")
    assert [(row.routing, row.light) for row in whole] == [("exact", "exact"), ("exact", "late")]


@pytest.mark.parametrize(
    ("lists", "named"),
    [({"lights": "early"}, "--light"), ({"beyonds": "2"}, "light_beyond"), ({"distances": "0"}, "light_distance")],
)
def test_lists_that_cannot_be_taken(lists: dict[str, str], named: str):
    with pytest.raises(UsageError, match=named):
        sweep(*PLAIN, **{"lights": "exact,late", **lists})


@pytest.fixture(scope="module")
def measured(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("light") / "bench.json"
    words = "-p 8 -g 12 -n 2 --expert-cache 25%,100% --routing exact --decode readback --baseline none"
    words += " --light exact,late --light-beyond 0"
    assert main(["bench", "--model", str(store), *words.split(), "--json", str(out)]) == 0
    return out


@pytest.fixture
def result(measured: Path) -> BenchResult:
    return read_result(measured)


@pytest.mark.slow
def test_who_was_late_is_counted(result: BenchResult):
    waits, late, whole, whole_late = result.rows
    assert (waits.setting.light, late.setting.light, late.setting.beyond) == ("exact", "late", 0.0)
    assert all(row.stable for row in result.rows)
    assert 0 < late.late_per_token <= late.misses_per_token
    assert late.blocking_per_token == pytest.approx(late.misses_per_token - late.late_per_token)
    assert 0 < late.late_weight < 1 and late.read_waits_per_token < result.model["layers"]
    assert waits.blocking_per_token == waits.misses_per_token and waits.read_waits_per_token > 0
    assert (waits.late_per_token, waits.late_weight, waits.waits_saved_per_token) == (0, 0, 0)
    for name in (*COUNTS, "misses_per_token"):
        assert getattr(whole_late, name) == getattr(whole, name) == 0


def test_the_table_has_the_columns_where_a_row_is_late(result: BenchResult):
    table = bench_table(result)
    assert max(map(len, table.splitlines())) <= 120
    assert "exact, light late beyond 0" in table
    for head in ("blocking", "that wait", "saved"):
        assert head in table
        assert head not in bench_table(replace(result, rows=result.rows[:1]))


def test_a_file_from_before_is_read_and_compared(measured: Path, result: BenchResult):
    older = json.loads(measured.read_text())
    older["rows"] = older["rows"][:1]
    for name in COUNTS:
        del older["rows"][0][name]
    for name in ("light", "beyond", "distance"):
        del older["rows"][0]["setting"][name]
    measured.with_name("older.json").write_text(json.dumps(older))
    before = read_result(measured.with_name("older.json"))
    changes = compare(before, result, 0.05, counts_only=True)
    assert {change.key for change in changes} == {result.rows[0].setting.key} and not any(c.worse for c in changes)
    lost = replace(result, rows=(replace(result.rows[1], late_per_token=0.0),))
    assert [c.figure for c in compare(result, lost, 0.05, counts_only=True) if c.worse] == ["blocking_per_token"]


def test_a_family_whose_experts_all_wait_is_skipped_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = tiny_checkpoint("phimoe", tmp_path / "model")
    words = "-p 4 -g 2 -n 1 --expert-cache 50% --routing exact --decode readback --baseline none --light exact,late"
    assert main(["bench", "--model", str(model), *words.split(), "--json", str(tmp_path / "a.json")]) == 0
    assert len(read_result(tmp_path / "a.json").rows) == 1
    assert "skipped: 50% exact, light late beyond 0.6 " in (said := capsys.readouterr().err)
    assert "--light has no effect on this model" in said
