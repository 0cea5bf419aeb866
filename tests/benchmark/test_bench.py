"""The bench: its counts agree with each other, what it skips it says, and a regression is found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moe_mlx.benchmark.compare import compare, parse_tolerance
from moe_mlx.benchmark.noise import noise
from moe_mlx.benchmark.prompts import tokens_of
from moe_mlx.benchmark.report import bench_table
from moe_mlx.benchmark.results import BenchResult, Spread, read_result
from moe_mlx.benchmark.settings import sweep
from moe_mlx.cli import main
from moe_mlx.errors import UsageError
from moe_mlx.loading.decode_way import DecodeChoice

G = 6


@pytest.fixture(scope="module")
def measured(store: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("result")
    words = ["bench", "--model", str(store), "--baseline-model", str(checkpoint), "-p", "20", "-g", str(G), "-n", "2"]
    words += ["--expert-cache", "25%,100%", "--decode", "readback", "--page-cache", "warm,cold"]
    assert main([*words, "--json", str(folder / "a.json"), "--plot", str(folder / "a.svg")]) == 0
    return folder / "a.json"


@pytest.fixture
def result(measured: Path) -> BenchResult:
    return read_result(measured)


def test_every_setting_is_measured_once(result: BenchResult):
    keys = [row.setting.key for row in result.rows]
    assert keys == [
        "25% exact readback cached warm",
        "25% exact readback cached cold",
        "25% cache-prior 0.1 readback cached warm",
        "25% cache-prior 0.1 readback cached cold",
        "100% exact readback cached warm",
        "100% exact readback cached cold",
    ]
    assert result.baseline == "mlx-lm"
    assert not result.skipped


def test_counts_agree_with_each_other(result: BenchResult):
    expert_bytes, layers, top_k = (result.model[name] for name in ("expert_bytes", "layers", "top_k"))
    for row in result.rows:
        assert row.stable
        assert row.steps == G + 1  # the prompt's last token, and mlx-lm's look-ahead in place of the last
        assert row.bytes_per_token == pytest.approx(row.misses_per_token * expert_bytes)
        assert row.hit_rate == pytest.approx(1 - row.misses_per_token / (layers * top_k))
        whole = row.slots_per_layer == result.model["experts"]
        assert row.read_backs_per_token == (0 if whole else layers)
        assert row.crossings_per_token == 0  # nothing runs in the graph here
        assert row.expert_cache_bytes == row.slots_per_layer * layers * expert_bytes
        assert row.decode_tps.low <= row.decode_tps.median <= row.decode_tps.high
        assert row.decode_share is not None and row.decode_share > 0
        if row.setting.routing == "exact":
            assert row.swapped_share == 0


def test_reads_add_up_and_what_the_page_cache_holds_is_told(result: BenchResult):
    for row in result.rows:
        assert row.reads is not None and row.reads.io == row.io_ran == "cached"
        prompt = row.prefill_bytes // result.model["expert_bytes"]
        assert row.reads.reads == round(row.misses_per_token * row.steps) + prompt
        assert row.reads.bytes == round(row.bytes_per_token * row.steps) + row.prefill_bytes
        for use in (row.page_cache, row.page_cache_twice):
            assert use is not None and 0 <= use.nbytes <= use.of_nbytes and not use.estimate
        assert row.page_cache.of_nbytes == result.model["experts_bytes"]
        assert row.page_cache_twice.of_nbytes <= row.expert_cache_bytes


def test_direct_reads_count_what_cached_reads_count(store: Path, tmp_path: Path):
    words = ["bench", "--model", str(store), "--baseline", "none", "-p", "20", "-g", str(G), "-n", "1"]
    words += ["--expert-cache", "25%", "--decode", "readback", "--io", "cached,direct", "--routing", "exact"]
    assert main([*words, "--json", str(tmp_path / "b.json")]) == 0
    cached, direct = read_result(tmp_path / "b.json").rows
    assert (cached.io_ran, direct.io_ran in ("direct", "dropped")) == ("cached", True)
    assert direct.reads is not None and cached.reads is not None
    assert (direct.reads.reads, direct.hit_rate) == (cached.reads.reads, cached.hit_rate)
    old = json.loads((tmp_path / "b.json").read_text())
    for row in old["rows"]:  # a file from before these were measured
        for name in ("io_ran", "reads", "page_cache", "page_cache_twice"):
            del row[name]
    (tmp_path / "b.json").write_text(json.dumps(old))
    assert [row.reads for row in read_result(tmp_path / "b.json").rows] == [None, None]


def test_warm_and_cold_differ_in_nothing_but_time(result: BenchResult):
    by_key = {row.setting.key: row for row in result.rows}
    for key, row in by_key.items():
        if key.endswith("cold"):
            warm = by_key[key.replace("cold", "warm")]
            assert (row.misses_per_token, row.swapped_share) == (warm.misses_per_token, warm.swapped_share)


def test_the_picture_is_drawn(measured: Path):
    assert b"<svg" in measured.with_suffix(".svg").read_bytes()


def test_the_table_fits_a_desk_and_loses_no_column(result: BenchResult):
    ways = {"prefetch": "auto", "io": "direct"}
    wild = replace(result.rows[0], setting=replace(result.rows[0].setting, **ways), predicted_decode_tps=3.0)
    table = bench_table(replace(result, rows=(*result.rows, wild)))
    assert max(map(len, table.splitlines())) <= 120
    for head in ("prefill", "hit", "peak", "misses", "predicted", "off by"):
        assert head in table
    parts, capped = table.count("expert cache  routing"), sum(line.startswith("25% (") for line in table.splitlines())
    assert parts > 1 and capped == parts * 5, "each part names its rows"


def test_what_is_alike_in_every_row_is_told_once(result: BenchResult):
    table = bench_table(result)
    assert "in every row: decode readback, io cached, prefetch off" in table
    assert "pages" in table.split("in every row")[1]


@pytest.mark.parametrize(
    ("low", "high", "said"), [(97.0, 103.0, None), (80.0, 110.0, "the baseline's own trials ran at 80-110 tok/s, 30%")]
)
def test_a_noisy_machine_is_told_by_its_baseline(result: BenchResult, low: float, high: float, said: str | None):
    rows = tuple(replace(row, baseline_decode_tps=Spread(100.0, low, high)) for row in result.rows)
    found = noise(replace(result, rows=rows))
    assert found is None if said is None else said in str(found)
    assert ("TOO NOISY" in bench_table(replace(result, rows=rows))) == (said is not None)


def test_without_a_baseline_the_widest_trials_tell(result: BenchResult):
    alone = [replace(row, baseline_decode_tps=None, decode_tps=Spread(10.0, 9.9, 10.1)) for row in result.rows]
    assert noise(replace(result, rows=tuple(alone))) is None
    alone[2] = replace(alone[2], decode_tps=Spread(10.0, 9.0, 11.0))
    assert "one setting ran at 9-11 tok/s, 20%" in str(noise(replace(result, rows=tuple(alone))))


def test_compare_finds_a_regression(result: BenchResult, measured: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "compare", str(measured), str(measured)]) == 0
    found = json.loads(measured.read_text())
    found["rows"][0]["decode_share"] *= 0.9
    found["rows"][1]["bytes_per_token"] *= 1.2
    worse = measured.with_name("b.json")
    worse.write_text(json.dumps(found))
    assert main(["bench", "compare", str(measured), str(worse), "--tolerance", "5%"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "REGRESSION" in line]
    assert len(lines) == 2
    assert "decode_share" in lines[0] and "bytes_per_token" in lines[1]
    assert main(["bench", "compare", str(measured), str(worse), "--tolerance", "15%", "--counts-only"]) == 1
    assert main(["bench", "compare", str(worse), str(measured)]) == 0  # better is no regression


def test_compare_needs_something_in_common(result: BenchResult):
    other = replace(result, rows=tuple(replace(r, setting=replace(r.setting, expert_cache="9%")) for r in result.rows))
    with pytest.raises(UsageError, match="no setting in common"):
        compare(result, other, 0.05)


def test_speeds_without_a_common_baseline_are_compared_as_such(result: BenchResult):
    figures = {change.figure for change in compare(result, replace(result, baseline="none"), 0.05)}
    assert {"decode_tps", "prefill_tps"} <= figures


@pytest.mark.parametrize("text", ["", "-5%", "150%", "much"])
def test_tolerances_that_are_none(text: str):
    with pytest.raises(UsageError):
        parse_tolerance(text)


def test_a_file_that_is_no_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "x.json").write_text("{}")
    assert main(["bench", "compare", str(tmp_path / "x.json"), str(tmp_path / "y.json")]) == 2
    assert "x.json" in capsys.readouterr().err


def test_a_text_is_decoded_along(checkpoint: Path, tmp_path: Path):
    text = tmp_path / "text"
    text.write_text("the quick brown fox jumps over the lazy dog")
    words = ["bench", "--model", str(checkpoint), "-g", "5", "-n", "1", "--prompt-file", str(text)]
    words += ["--expert-cache", "25%", "--decode", "readback", "--route-lambda", "0,0.5", "--baseline", "none"]
    assert main([*words, "--json", str(tmp_path / "a.json")]) == 0
    rows = read_result(tmp_path / "a.json").rows
    exact, zero, half = rows
    assert exact.misses_per_token == zero.misses_per_token >= half.misses_per_token
    assert exact.decode_share is None


def test_pages_dropped_after_every_token_change_no_count(store: Path, tmp_path: Path):
    words = ["bench", "--model", str(store), "-p", "8", "-g", "6", "-n", "1", "--baseline", "none"]
    words += ["--expert-cache", "25%", "--routing", "exact", "--decode", "readback", "--page-cache", "warm,dropped"]
    assert main([*words, "--json", str(tmp_path / "a.json")]) == 0
    warm, dropped = read_result(tmp_path / "a.json").rows
    assert (warm.misses_per_token, warm.hit_rate) == (dropped.misses_per_token, dropped.hit_rate)
    assert dropped.setting.pages == "dropped" and dropped.ran == "readback"


def test_a_way_that_this_machine_lacks_is_skipped(store: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def choose(model: object, cached: object, decode: str, *_: object) -> DecodeChoice:
        if decode == "native":
            raise UsageError("no compiler")
        return DecodeChoice("readback", "as asked")

    monkeypatch.setattr("moe_mlx.loading.loader.choose_decode", choose)
    words = ["bench", "--model", str(store), "-p", "4", "-g", "2", "-n", "1", "--baseline", "none"]
    assert main([*words, "--expert-cache", "50%", "--routing", "exact", "--decode", "native,readback"]) == 0
    assert "skipped: 50% exact native cached warm: no compiler" in capsys.readouterr().err


def test_a_text_that_is_too_short(tmp_path: Path):
    with pytest.raises(UsageError, match="3 tokens"):
        tokens_of([1, 2, 3], 10, 5, tmp_path)
    assert len(tokens_of(list(range(10)), 100, 5, tmp_path).prompt) == 4


def test_a_cap_that_does_not_fit_is_skipped_and_said(checkpoint: Path, capsys: pytest.CaptureFixture[str]):
    words = ["bench", "--model", str(checkpoint), "-p", "4", "-g", "2", "-n", "1", "--baseline", "none"]
    assert main([*words, "--expert-cache", "1%,50%", "--routing", "exact", "--decode", "readback"]) == 0
    assert "skipped: 1%" in capsys.readouterr().err
    assert main([*words, "--expert-cache", "1%"]) == 2


def test_a_store_without_its_checkpoint_is_compared_with_itself(store: Path, tmp_path: Path):
    words = ["bench", "--model", str(store), "-p", "4", "-g", "2", "-n", "1", "--expert-cache", "50%"]
    words += ["--routing", "exact", "--decode", "readback"]
    assert main([*words, "--json", str(tmp_path / "a.json")]) == 0
    assert read_result(tmp_path / "a.json").baseline == "moe-mlx 100%"
    assert main([*words, "--baseline", "mlx-lm"]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--routing", "wrong"],
        ["--decode", "fast"],
        ["--io", "x"],
        ["--route-lambda", "2"],
        ["-g", "1"],
        ["-n", "0"],
        ["--expert-cache", ""],
        ["--page-cache", "tepid"],
        ["--readers", "0"],
        ["--plot", "/no/such/folder/x.svg"],
    ],
)
def test_arguments_that_cannot_be_taken(words: list[str], checkpoint: Path):
    assert main(["bench", "--model", str(checkpoint), *words]) == 2


def test_matplotlib_is_asked_for_before_measuring(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("moe_mlx.system.plots.find_spec", lambda name: None)
    monkeypatch.setattr("moe_mlx.store.resolve.resolve", lambda *_: pytest.fail("goes on"))
    assert main(["bench", "--plot", "x.svg"]) == 2
    assert "pip install 'moe-mlx[plot]'" in capsys.readouterr().err
    assert main(["bench", "--plot", "x.gif"]) == 2
    assert ".png, .svg or .pdf" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--model"], ["io"]])
def test_a_result_that_has_no_folder_is_told_before_measuring(words: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("moe_mlx.store.resolve.resolve", lambda *_: pytest.fail("goes on"))
    assert main(["bench", *words, "demo", "--json", "/no/such/folder/x.json"]) == 2


def test_sweep_measures_full_residency_once():
    settings = sweep("50%,100%", "exact,cache-prior,max-rank", "0.1,0.2", "readback", "cached", "warm")
    assert len(settings) == 4 + 1
