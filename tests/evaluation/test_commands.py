"""The verbs as a user calls them: output, files, interruption, resuming, and what is refused with exit code 2."""

import argparse
import csv
import json

import pytest

from moe_mlx.cli import main
from moe_mlx.errors import UsageError
from moe_mlx.evaluation import run as run_module
from moe_mlx.evaluation.arguments import checked_grid
from moe_mlx.evaluation.setting import Grid, Setting, sweep_ranks
from tests.evaluation.conftest import TEXT


@pytest.fixture
def base(checkpoint, tmp_path):
    """The arguments that every call of `eval` here begins with."""
    (tmp_path / "text.txt").write_text(TEXT)
    return ["eval", "--model", str(checkpoint()), "--data", str(tmp_path / "text.txt"), "--limit-tokens", "25"]


def test_a_table_csv_and_json(base, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    words = [*base, "--expert-cache", "30%,50%", "--routing", "exact,cache-prior,belady", "--route-lambda", "0.1,0.5"]
    assert main([*words, "--csv", str(rows)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == [
        "cache",
        "routing",
        "evict",
        "PPL",
        "change",
        "KL",
        "top-1",
        "miss",
        "read/token",
        "swapped",
        "stay",
    ]
    assert [line.split()[0] for line in lines[2:]] == ["100%", *["30%"] * 4, *["50%"] * 4]
    assert "token by token at decode" in err
    with rows.open() as file:
        kept = list(csv.DictReader(file))
    assert len(kept) == 9
    assert float(kept[0]["miss_rate"]) == 0.0
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["miss_rate"] for row in found["rows"]] == [float(row["miss_rate"]) for row in kept[1:]]
    assert found["reference"]["ppl"] == float(kept[0]["ppl"])
    assert found["tokens"] == 25


def test_an_interrupted_evaluation_goes_on_from_its_file(base, tmp_path, capsys, monkeypatch):
    kept = tmp_path / "results.json"
    words = [*base, "--expert-cache", "50%", "--routing", "exact,cache-prior,pruned", "--resume", str(kept)]
    scored = []
    score = run_module.score

    def interrupted(*args, **options):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(1)
        return score(*args, **options)

    monkeypatch.setattr(run_module, "score", interrupted)
    assert main(words) == 130
    assert "2 of 4 settings done, kept in" in capsys.readouterr().err
    before = json.loads(kept.read_text())
    assert len(before["rows"]) == 2
    again = []
    monkeypatch.setattr(run_module, "score", lambda *args, **more: again.append(1) or score(*args, **more))
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(again) == 2  # only what was missing
    assert found["rows"][:2] == before["rows"]
    assert main([*words, "--json"]) == 0
    assert len(again) == 2
    assert json.loads(capsys.readouterr().out) == found


def test_results_of_something_else_are_not_mixed(base, tmp_path, capsys, checkpoint):
    kept = tmp_path / "results.json"
    words = [*base, "--routing", "exact", "--resume", str(kept)]
    assert main(words) == 0
    other = [*words, "--limit-tokens", "20"]
    assert main(other) == 2
    assert "results of another data or limits" in capsys.readouterr().err
    other = [*words, "--model", str(checkpoint(seed=1))]
    assert main(other) == 2
    assert "results of another model" in capsys.readouterr().err
    kept.write_text("{}")
    assert main(words) == 2
    assert "holds no results" in capsys.readouterr().err


def test_simulate_without_arguments_replays_what_was_recorded(base, tmp_path, capsys):
    trace = tmp_path / "t.npz"
    routing = ["--routing", "cache-prior", "--route-lambda", "0.4", "--expert-cache", "50%"]
    assert main([*base, *routing, "--json", "--trace", str(trace)]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert main(["simulate", str(trace), "--json", "--belady"]) == 0
    found = json.loads(capsys.readouterr().out)
    replayed, optimum = found["rows"]
    assert {name: replayed[name] for name in found["recorded"]["counted"]} == found["recorded"]["counted"]
    assert replayed["miss_rate"] == pytest.approx(row["miss_rate"])
    assert replayed["counts"] == "exact"
    assert optimum["counts"] == "approximate"  # the exact run would have had other scores
    assert (
        main(["simulate", str(trace), "--expert-cache", "30%,4MB", "--routing", "exact,max-rank", "--evict", "lru,lfu"])
        == 0
    )
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2 * 2 * 2


def test_simulate_takes_its_documented_defaults_where_anything_is_asked_for(base, tmp_path, capsys):
    trace = tmp_path / "t.npz"
    assert main([*base, "--routing", "cache-prior", "--route-lambda", "0.4", "--trace", str(trace)]) == 0
    capsys.readouterr()
    for asked, evict, value in ((["--evict", "lfu"], "lfu", 0.1), (["--route-lambda", "0.3"], "lru", 0.3)):
        assert main(["simulate", str(trace), "--json", *asked]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert [(row["cache"], row["routing"], row["value"], row["evict"]) for row in rows] == [
            ("50%", "exact", None, evict),
            ("50%", "cache-prior", value, evict),
        ]


def test_simulate_draws_what_it_replayed(base, tmp_path, capsys, monkeypatch):
    trace, picture = tmp_path / "t.npz", tmp_path / "p.svg"
    assert main([*base, "--routing", "exact", "--trace", str(trace)]) == 0
    words = ["simulate", str(trace), "--expert-cache", "25%,50%", "--evict", "lru,lfu", "--belady"]
    assert main([*words, "--share-by", str(trace), "--plot", str(picture)]) == 0
    drawn = picture.read_text()
    assert drawn.count('id="axes_') == 2
    for label in ("exact, LFU, measured share", "exact, Belady", "Cache-Prior", "25% of the experts in memory"):
        assert f"<!-- {label}" in drawn
    monkeypatch.setattr("moe_mlx.system.plots.find_spec", lambda name: None)
    monkeypatch.setattr("moe_mlx.evaluation.simulation.load_trace", lambda path: pytest.fail("goes on"))
    assert main([*words, "--plot", str(picture)]) == 2
    assert "pip install 'moe-mlx[plot]'" in capsys.readouterr().err


def test_simulate_shares_by_the_curves_of_another_trace(base, tmp_path, capsys, checkpoint):
    trace, other, foreign = (tmp_path / name for name in ("t.npz", "other.npz", "foreign.npz"))
    (tmp_path / "other.txt").write_text(TEXT[::-1])
    assert main([*base, "--routing", "exact", "--trace", str(trace)]) == 0
    assert main([*base, "--data", str(tmp_path / "other.txt"), "--routing", "exact", "--trace", str(other)]) == 0
    capsys.readouterr()
    words = ["simulate", str(trace), "--expert-cache", "50%,75%", "--routing", "exact", "--json", "--share-by"]
    assert main([*words, str(trace)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["share"] for row in rows] == ["even", "measured"] * 2
    assert all(own["misses"] <= even["misses"] for even, own in zip(rows[::2], rows[1::2], strict=True))
    assert main([*words, str(other)]) == 0
    capsys.readouterr()
    base[base.index("--model") + 1] = str(checkpoint(seed=1))
    assert main([*base, "--routing", "exact", "--trace", str(foreign)]) == 0
    assert main([*words, str(foreign)]) == 2
    assert "another model" in capsys.readouterr().err


def test_a_trace_of_another_model_is_refused(base, tmp_path, capsys, checkpoint):
    trace = tmp_path / "t.npz"
    assert main([*base, "--routing", "exact", "--trace", str(trace)]) == 0
    assert main(["simulate", str(trace), "--model", str(checkpoint())]) == 0
    capsys.readouterr()
    assert main(["simulate", str(trace), "--model", str(checkpoint(seed=1))]) == 2
    assert "the trace was recorded from another model" in capsys.readouterr().err


def test_a_store_and_its_checkpoint_are_the_same_model(base, tmp_path, capsys, checkpoint):
    trace, store = tmp_path / "t.npz", tmp_path / "store"
    assert main([*base, "--routing", "exact", "--trace", str(trace)]) == 0
    assert main(["convert", "--model", str(checkpoint()), "--mlx-path", str(store)]) == 0
    assert main(["simulate", str(trace), "--model", str(store)]) == 0


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--route-lambda", "1.5"], "route_lambda is 1.5: give a number from 0 to 1"),
        (["--route-lambda", "0.1,x"], "--route-lambda '0.1,x'"),
        (["--route-top-j", "-1"], "route_top_j is -1"),
        (["--routing", "magic"], "unknown routing 'magic': choose among exact, cache-prior"),
        (["--routing", "exact", "--route-mass", "2"], "route_mass is 2.0"),
        (["--routing", "pruned", "--pruned", "0"], "pruned to 0"),
        (["--evict", "fifo"], "unknown eviction 'fifo'"),
        (["--expert-cache", ","], "--expert-cache is empty"),
        (["--expert-cache", "some"], "'some'"),
        (["--limit-tokens", "0"], "--limit-tokens is 0"),
        (["--tasks", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["--plot", "x.pdf"], "ends in .svg or .png"),
        (["--csv", "no/such/folder/x.csv"], "there is no folder"),
    ],
)
def test_bad_arguments_end_with_2_and_say_which(base, extra, says, capsys):
    assert main([*base, *extra]) == 2
    assert says in capsys.readouterr().err


def test_an_empty_data_file_ends_with_2(base, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("")
    assert main(base) == 2
    assert "is empty: there is nothing to score" in capsys.readouterr().err


def test_what_is_no_trace_ends_with_2(tmp_path, capsys):
    path = tmp_path / "t.npz"
    assert main(["simulate", str(path)]) == 2
    path.write_bytes(b"PK\x03\x04 no")
    assert main(["simulate", str(path)]) == 2
    assert "is no trace" in capsys.readouterr().err


def test_matplotlib_is_asked_for_by_its_extra(base, monkeypatch, capsys):
    monkeypatch.setattr("moe_mlx.system.plots.find_spec", lambda name: None)
    assert main([*base, "--plot", "x.svg"]) == 2
    assert "pip install 'moe-mlx[plot]'" in capsys.readouterr().err


def test_a_grid_combines_each_parameter_with_its_own_policy():
    grid = Grid(["25%", "50%"], ["exact", "cache-prior", "pruned", "belady"], ["lru", "lfu"], lambdas=[0.1, 0.2])
    found = grid.settings(top_k=3)
    assert len(found) == 2 * (2 + 4 + 4 + 1)
    assert Setting("50%", "pruned", 2, None, "lfu") in found


def test_every_j_is_tried_where_there_is_one():
    grid = Grid(["50%"], ["exact", "cache-prior", "ahead"], top_js=[1, 0], aheads=[1, 2])
    found = [(setting.routing, setting.value, setting.top_j) for setting in grid.settings(top_k=4)]
    cache_prior = [("cache-prior", 0.1, 1), ("cache-prior", 0.1, 0)]
    assert found == [("exact", None, None), *cache_prior, *(("ahead", far, j) for far in (1, 2) for j in (1, 0))]


def test_every_mode_that_joins_later_has_its_distances():
    grid = Grid(["50%"], ["exact"], ["lru"], lights=["exact", "late", "coarse", "late-coarse"], distances=[1, 2])
    found = [(setting.light, setting.distance) for setting in grid.settings(top_k=3)]
    assert found == [("exact", 1), ("late", 1), ("late", 2), ("coarse", 1), ("late-coarse", 1), ("late-coarse", 2)]


def test_every_mode_that_uses_high_bits_has_its_forms():
    grid = Grid(["50%"], ["exact"], lights=["exact", "late", "coarse", "late-coarse"], forms=["2", "2-down4"])
    found = {setting.describe: (setting.light, setting.form) for setting in grid.settings(top_k=3)}
    assert found == {
        "exact": ("exact", "2"),
        "exact, light late beyond 0.6": ("late", "2"),
        "exact, light coarse beyond 0.6": ("coarse", "2"),
        "exact, light coarse beyond 0.6, form 2-down4": ("coarse", "2-down4"),
        "exact, light late-coarse beyond 0.6": ("late-coarse", "2"),
        "exact, light late-coarse beyond 0.6, form 2-down4": ("late-coarse", "2-down4"),
    }
    with pytest.raises(UsageError, match="light_form"):
        Setting("50%", light="coarse", form="3")


@pytest.mark.parametrize("lights", ["exact,coarse", "exact,late,coarse"])
def test_thresholds_by_layer_are_not_dropped_without_a_word(lights):
    unasked = ["expert_cache", "evict", "route_lambda", "route_max_rank", "route_mass", "pruned", "route_top_j"]
    asked = dict.fromkeys(unasked)
    args = argparse.Namespace(**asked, sweep=False, routing="exact", light=lights, light_beyond="layers")
    with pytest.raises(UsageError, match="late experts alone: give a number"):
        checked_grid(args)


def test_ranks_of_a_sweep_go_from_k_to_all():
    assert sweep_ranks(4, 32)[0] == 5
    assert sweep_ranks(4, 32)[-1] == 32
    assert sweep_ranks(1, 2) == [2]
