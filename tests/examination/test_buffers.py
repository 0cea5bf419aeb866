"""MLX_MAX_OPS_PER_BUFFER at two values, each in a process of its own that decodes when told, and what comes of it."""

import os
from pathlib import Path

import pytest

from moe_mlx.examination import buffer_rates
from moe_mlx.examination.advice import advise
from moe_mlx.examination.buffer_rates import VALUE, VARIABLE
from moe_mlx.examination.part import DONE, Finding
from moe_mlx.examination.report import markdown
from moe_mlx.store.demo import demo_path

MEASURED = {"value": 8, "metal": True, "own": 8.0, "changed": 12.5, "gains": [1.5, 1.6, 1.55]}


def advised(trials: int = 3, **figures: object) -> tuple[object, list[str]]:
    found = {**MEASURED, "trials": trials, "asked_trials": 3, **figures}
    advice = advise([Finding("buffers", DONE, 1.0, found)])
    return advice.calibration.get("ops_per_buffer"), list(advice.lines)


@pytest.mark.slow
def test_both_values_are_timed_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "50")  # the user's own is left out of MLX's own
    processes = [buffer_rates._start(demo_path(), 4, value) for value in (None, VALUE)]
    try:
        rates = [buffer_rates._trial(process) for process in processes * 2]
        places = [Path(f"/proc/{process.pid}/environ") for process in processes]
        variables = [
            [text for text in place.read_bytes().split(b"\0") if VARIABLE.encode() in text]
            for place in places
            if place.exists()
        ]
    finally:
        for process in processes:
            buffer_rates._end(process)
    assert len(rates) == 4 and all(rate > 0 for rate in rates)
    assert variables in ([], [[], [f"{VARIABLE}={VALUE}".encode()]])
    assert os.environ[VARIABLE] == "50"


def test_a_process_that_ends_is_an_error(tmp_path: Path):
    process = buffer_rates._start(tmp_path / "no store", 4, VALUE)
    with pytest.raises(buffer_rates.MoeMlxError, match="has ended"):
        buffer_rates._trial(process)
    buffer_rates._end(process)


def test_a_gain_is_kept_and_advised_with_its_size():
    assert advised() == (8, ["MLX_MAX_OPS_PER_BUFFER=8 in the environment: 1.56 times the speed"])


@pytest.mark.parametrize(
    "figures",
    [
        {"changed": 8.1, "gains": [1.01, 1.02, 1.01]},
        {"changed": 6.0, "gains": [0.7, 0.8, 0.75]},
        {"gains": [0.9, 1.6, 1.6]},
        {"metal": False},
    ],
    ids=["the same", "slower", "slower in one round", "no Metal, which takes no notice"],
)
def test_no_gain_is_no_advice(figures: dict[str, object]):
    assert advised(**figures) == (0, [])


def test_by_too_few_trials_nothing_is_chosen():
    assert advised(trials=2) == (None, ["nothing by buffers: only 2 of 3 trials were done in the time"])
    found = {**MEASURED, "metal": False, "trials": 2, "asked_trials": 3}
    report = markdown([Finding("buffers", DONE, 1.0, found)], advise([]), small=False)
    assert "| MLX's own | 8.0 |" in report and "| 8 | 12.5 |" in report
    assert "**Cut**: 2 of 3 trials" in report and "takes no notice" in report
