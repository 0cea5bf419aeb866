"""Coarse experts on the command line: what is said, counted and planned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_mlx.cli import main
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.evaluation.conftest import TEXT

COARSE = ("--light", "coarse", "--light-beyond", "0", "--expert-cache", "75%", "--routing", "exact")


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from moe_mlx_convert import convert

    folder = tmp_path_factory.mktemp("coarse")
    tiny_checkpoint("qwen3_moe", folder / "model", quantization=AFFINE4)
    convert(folder / "model", folder / "store", nested=True, compare=False)
    return folder / "store"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Verdicts of the person who runs the tests are neither read nor written."""
    monkeypatch.setattr("moe_mlx.history.verdicts.user_folder", lambda: tmp_path / "home")
    return tmp_path / "home"


def generated(model: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    fixed = ["--prompt", "a fox", "--max-tokens", "12", "--decode", "readback"]
    assert main(["generate", "--model", str(model), *fixed, *COARSE, *words]) == 0
    return capsys.readouterr()


def test_generate_tells_what_was_coarse(nested: Path, capsys: pytest.CaptureFixture[str]):
    told = json.loads(generated(nested, capsys, "--json")[0])
    counted = told["receipt"]
    assert told["light"] == "coarse" and min(told["low_slots_per_layer"]) > 0
    assert 0 < counted["coarse"] <= counted["hits"] + counted["misses"] and counted["coarse_weight"] > 0
    assert counted["coarse_bytes"] + counted["rest_bytes"] <= counted["bytes_read"]
    err = generated(nested, capsys)[1]
    assert f"coarse {counted['coarse_share']:.1%} (weight {counted['coarse_weight']:.2f})" in err
    assert "what --light coarse costs this model in quality has not been measured" in err


def test_a_model_without_high_bits_first_says_so(nested: Path, capsys: pytest.CaptureFixture[str]):
    err = generated(nested.parent / "model", capsys)[1]
    assert "--light coarse has no effect: experts are whole only; `moe-mlx convert --nested`" in err


def test_eval_sweeps_forms_beside_thresholds_and_ways(
    nested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], home: Path
):
    """In one run, and a form among others has the row that it has alone."""
    (tmp_path / "text.txt").write_text(TEXT)
    asked = "--limit-tokens 20 --tasks none --routing exact --expert-cache 75% --decode readback --json --light"
    fixed = ["eval", "--model", str(nested), "--data", str(tmp_path / "text.txt"), *asked.split()]
    assert main([*fixed, "exact,late,coarse", "--light-beyond", "0.3,0", "--light-form", "2,2-down4"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 1 + 2 + 2 * 2
    assert main([*fixed, "coarse", "--light-beyond", "0", "--light-form", "2-down4"]) == 0
    (alone,) = json.loads(capsys.readouterr().out)["rows"]
    coarse = {row["form"]: row for row in rows if row["light"] == "coarse" and row["beyond"] == 0}
    assert coarse["2-down4"] == alone
    assert coarse["2"]["kl"] > alone["kl"] > 0, "the form with a whole projection departs less"
    (kept,) = home.rglob("verdicts/*.json")
    told = {(one["light"], one["beyond"], one["form"]) for one in json.loads(kept.read_text())["verdicts"]}
    assert {("coarse", 0, "2"), ("coarse", 0, "2-down4")} <= told


def test_plan_and_inspect_show_what_each_size_means(nested: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", str(nested), "--json"]) == 0
    caps = json.loads(capsys.readouterr().out)["caps"]
    plans = {cap["share"]: cap["coarse"] for cap in caps}
    assert all(whole >= 3 and whole + low <= 16 for pairs in plans.values() for whole, low in pairs)
    assert plans[0.5][0][1] > 0 and plans[1.0][0] == [16, 0]
    assert main(["inspect", str(nested)]) == 0
    assert "coarse: whole + low" in capsys.readouterr().out
    assert main(["plan", str(nested), "--expert-cache", "50%,auto", "--available", "2GB"]) == 0
    out = capsys.readouterr().out
    whole, low = plans[0.5][0]
    assert f"{whole} + {low}" in out
    assert main(["inspect", str(nested.parent / "model")]) == 0
    assert "coarse: whole + low" not in capsys.readouterr().out
