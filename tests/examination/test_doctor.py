"""The doctor whole, in small sizes; a part that hangs or fails is told and stops no other; what is kept is used."""

import json
from pathlib import Path

import pytest

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.examination.advice import advise
from moe_mlx.examination.child import run_part
from moe_mlx.examination.part import DONE, FAILED, OVERDUE, PARTS, Finding, Part
from moe_mlx.system.calibration import read_calibration, store_calibration


@pytest.mark.slow
def test_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report = tmp_path / "report.md"
    assert main(["doctor", "--small", "--json", "--report", str(report)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [part["state"] for part in found["parts"]] == [DONE] * len(PARTS)
    equality = next(part for part in found["parts"] if part["part"] == "equality")
    assert all(call["equal"] for call in equality["figures"]["cpu"].values())
    assert all(f"## {part.title}" in report.read_text() for part in PARTS)


def test_a_part_that_hangs_or_fails_is_told(tmp_path: Path):
    assert run_part(Part("streams", "stream_costs", "", 0.05), tmp_path, small=True).state == OVERDUE
    failed = run_part(Part("none", "no_such_part", "", 60), tmp_path, small=True)
    assert failed.state == FAILED and "no_such_part" in failed.reason


def test_what_is_measured_is_kept_and_auto_goes_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MOE_MLX_DECODE", raising=False)
    rounds = {"mlx-lm": [10.0] * 3, "native": [4.0, 4.0, 4.1], "readback": [5.0, 5.2, 5.0]}
    figures = {"rounds": rounds, "trials": 3, "asked_trials": 3}
    advice = advise([Finding("decode", DONE, 1.0, figures), Finding("disk", OVERDUE, 1.0)])
    assert advice.lines[0].startswith("--decode readback")
    store_calibration(**advice.calibration)
    assert read_calibration().native_gain == pytest.approx(0.8)
    model, _ = moe_mlx.load("demo", expert_cache="25%", say=lambda line: None)
    assert moe_mlx.runtime_of(model).decode_way == "readback"
    moe_mlx.runtime_of(model).close()


def test_auto_stays_left_of_a_measured_cliff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store_calibration(cliff_bytes=2 * 10**8)
    model, _ = moe_mlx.load("demo", expert_cache="auto", decode="readback", say=lambda line: None)
    plan = moe_mlx.runtime_of(model).plan
    moe_mlx.runtime_of(model).close()
    assert plan.slots[0] < 32
