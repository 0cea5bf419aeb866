"""`--light late` as a user meets it: the JSON and the line of `generate`, what eval keeps, a family that waits."""

import json
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.cli import main
from tests.checkpoints import tiny_checkpoint
from tests.evaluation.conftest import TEXT

UNMEASURED = "what --light late costs this model in quality has not been measured"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Verdicts of the person who runs the tests are neither read nor written."""
    monkeypatch.setattr("moe_mlx.history.verdicts.user_folder", lambda: tmp_path / "home")
    return tmp_path / "home"


def generated(folder: Path, capsys: Any, *words: str) -> tuple[Any, str]:
    light = [
        "--light",
        "late",
        "--light-beyond",
        "0",
        "--routing",
        "exact",
        "--expert-cache",
        "50%",
        "--decode",
        "readback",
    ]
    assert main(["generate", "--model", str(folder), "--prompt", "a fox", "--max-tokens", "12", *light, *words]) == 0
    return capsys.readouterr()


def test_generate_tells_who_was_late_and_that_nobody_has_judged_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = tiny_checkpoint("qwen3_moe", tmp_path / "model")
    out, err = generated(model, capsys, "--json")
    assert err.count(UNMEASURED) == 1
    told = json.loads(out)
    assert (told["light"], told["light_beyond"]) == ("late", 0.0)
    counted = told["receipt"]
    assert 0 < counted["late"] <= counted["misses"] and counted["waits_saved"] >= 0
    assert 0 < counted["late_weight"] < counted["late"]
    assert counted["late_share"] == counted["late"] / (counted["hits"] + counted["misses"])
    assert f"late {counted['late_share']:.1%} (weight {counted['late_weight']:.2f})" in generated(model, capsys)[1]


def test_eval_keeps_its_verdict_and_the_line_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str], home: Path):
    model = tiny_checkpoint("qwen3_moe", tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    asked = "--limit-tokens 25 --tasks none --routing exact --expert-cache 50% --light exact,late --decode readback"
    judged = ["eval", "--model", str(model), "--data", str(tmp_path / "text.txt"), *asked.split(), "--json"]
    assert main(judged) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    (kept,) = home.rglob("verdicts/*.json")
    (verdict,) = json.loads(kept.read_text())["verdicts"]
    late = next(row for row in rows if row["light"] == "late")
    assert (verdict["light"], verdict["kl"], verdict["tokens"]) == ("late", late["kl"], 25)
    assert UNMEASURED not in generated(model, capsys)[1]


def test_a_family_that_cannot_add_a_late_output_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = tiny_checkpoint("phimoe", tmp_path / "model")
    out, err = generated(model, capsys, "--json")
    assert err.count("phimoe: every expert is waited for, --light late has no effect: ") == 1
    assert json.loads(out)["receipt"]["late"] == 0
    (tmp_path / "text.txt").write_text(TEXT)
    words = ["eval", "--model", str(model), "--data", str(tmp_path / "text.txt"), "--light", "exact,late"]
    assert main(words) == 2
    assert "--light has no effect on this model" in capsys.readouterr().err
