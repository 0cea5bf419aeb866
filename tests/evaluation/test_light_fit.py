"""Thresholds of light experts by layer: the fit on made-up passes, and `eval --fit-light` on a tiny model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_mlx.cli import main
from moe_mlx.evaluation.light_fit import THRESHOLDS, WAITS, Pass, factors, thresholds
from tests.evaluation.conftest import TEXT

TRUE = np.array([0.02, 0.0, 0.3, 0.05])


def passes() -> list[Pass]:
    """Four layers with as many late experts each, whose weights cost by `TRUE`."""
    random = np.random.default_rng(5)
    drawn = random.random((400, 4))
    made = []
    for beyond in THRESHOLDS:
        late = drawn > beyond
        weight = np.where(late, 0.4 * drawn, 0.0)
        made.append(Pass(beyond, weight**2 @ TRUE, late.astype(float), weight))
    return made


def test_the_factors_of_the_layers_are_found():
    np.testing.assert_allclose(factors(passes()), TRUE, atol=1e-6)


def test_as_many_are_late_where_that_costs_least():
    made = passes()
    by_beyond = {one.beyond: one for one in made}
    found = thresholds(made, 0.6)
    assert found[1] == 0.0, "what costs nothing is never waited for"
    assert found[2] == WAITS > found[0] and all(share in (*THRESHOLDS, WAITS) for share in found)

    def of(levels: tuple[float, ...]) -> tuple[float, float]:
        late = cost = 0.0
        for layer, beyond in enumerate(levels):
            if beyond < WAITS:
                late += by_beyond[beyond].late[:, layer].mean()
                cost += TRUE[layer] * (by_beyond[beyond].weight[:, layer] ** 2).mean()
        return late, cost

    (late, cost), (uniform_late, uniform_cost) = of(found), of((0.6,) * 4)
    assert late >= uniform_late and cost < 0.5 * uniform_cost
    assert found == thresholds(made, 0.6)


def test_a_model_whose_experts_are_never_late_gets_thresholds_all_the_same():
    none = [Pass(beyond, np.zeros(9), np.zeros((9, 3)), np.zeros((9, 3))) for beyond in THRESHOLDS]
    assert thresholds(none, 0.6) == (WAITS,) * 3


@pytest.fixture
def asked(checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data.txt").write_text(TEXT)
    (tmp_path / "calibration.txt").write_text(TEXT[::-1])
    words = ["eval", "--model", str(checkpoint()), "--data", str(tmp_path / "data.txt"), "--tasks", "none", "--json"]
    words += [
        "--limit-tokens",
        "20",
        "--routing",
        "exact",
        "--expert-cache",
        "50%",
        "--light",
        "exact,late",
        "--decode",
        "readback",
    ]
    return [*words, "--light-beyond", "0.6,layers"]


def test_a_fit_is_kept_and_evaluated_again(asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(asked) == 2
    assert "no fit of this model is kept" in capsys.readouterr().err
    assert main([*asked, "--fit-light", str(tmp_path / "calibration.txt")]) == 0
    first = capsys.readouterr()
    rows = json.loads(first.out)["rows"]
    assert [(row["light"], row["fitted"]) for row in rows] == [("exact", False), ("late", False), ("late", True)]
    (path,) = (tmp_path / "cache").rglob("light-fits/*.json")
    (kept,) = json.loads(path.read_text())["light-fits"]
    assert kept["tokens"] == 20 and kept["cache"] == "50%" and len(kept["by_layer"]) > 1
    assert path.stat().st_mode & 0o077 == 0
    assert main(asked) == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["rows"] == rows, "the thresholds that were kept give the same bits"
    shown = [line for line in (first.err + again.err).splitlines() if line.startswith("thresholds by layer")]
    assert len(shown) == 2 and shown[0] == shown[1]
    (verdicts,) = tmp_path.rglob("verdicts/*.json")
    assert len(json.loads(verdicts.read_text())["verdicts"]) == 1, "a fit's row says nothing of one threshold for all"
    path.write_text(path.read_text().replace('"by_layer": [', '"by_layer": [2,'))
    assert main(asked) == 2


def test_a_profile_keeps_the_fit_of_its_task(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    mine = [*asked, "--profile", "sums"]
    monkeypatch.setenv("MOE_MLX_HISTORY", "off")
    assert main(mine) == 2
    assert "there are no profiles" in capsys.readouterr().err
    monkeypatch.setenv("MOE_MLX_HISTORY", str(tmp_path / "cache"))
    assert main([*mine, "--fit-light", str(tmp_path / "calibration.txt")]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    (path,) = (tmp_path / "cache").rglob("*.light-fits.json")
    assert path.parent.name == "sums"
    assert main(asked) == 2, "the model's own is another"
    assert "no fit of this model is kept" in capsys.readouterr().err
    assert main(mine) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == rows
    assert main([*asked, "--profile", "words"]) == 2
    assert "no fit in the profile words is kept" in capsys.readouterr().err
    assert main([*asked[:-2], "--profile", "sums"]) == 2
    assert "give both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fit-light", "data.txt"], "not judged on the text"),
        (["--fit-light", "calibration.txt", "--expert-cache", "50%,25%"], "one cap"),
        (["--fit-light", "calibration.txt", "--light-beyond", "0.6"], "--light-beyond layers"),
        (["--fit-light", "nowhere.txt"], "cannot be read"),
    ],
)
def test_what_cannot_be_fitted(
    asked: list[str], tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    here = [str(tmp_path / word) if word.endswith(".txt") else word for word in words]
    assert main([*asked, *here]) == 2
    assert said in capsys.readouterr().err
