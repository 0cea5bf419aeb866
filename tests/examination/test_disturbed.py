"""A machine that is busy with something else: parts are cut and say so, and nothing is advised by noise."""

from pathlib import Path

import pytest

from moe_mlx.examination import decode_rates, memory_cliff
from moe_mlx.examination.advice import advise
from moe_mlx.examination.part import DONE, Finding
from moe_mlx.examination.report import markdown
from moe_mlx.store.demo import demo_path

HELD = [object()] * 4


def test_decode_that_takes_too_long_is_cut_and_chooses_nothing():
    figures = decode_rates.rates(demo_path(), demo_path(), 4, 3, deadline=0.0)
    assert list(figures["tokens_per_second"]) == ["mlx-lm"] and figures["tokens_per_second"]["mlx-lm"] > 0
    assert set(figures["reasons"].values()) == {"no time was left to load it"}
    assert (figures["trials"], figures["asked_trials"]) == (0, 3)
    found = [Finding("decode", DONE, 1.0, figures)]
    advice = advise(found)
    assert advice.lines == ("nothing by decode: only 0 of 3 trials were done in the time",)
    assert not advice.calibration
    assert "**Cut**: 0 of 3 trials were done in the time." in markdown(found, advice, small=False)


@pytest.mark.parametrize(
    ("rates", "cliff"),
    [({1: 10.0, 4: 5.0}, True), ({1: 4.0, 4: 3.9}, False), ({1: 10.0, 4: 8.0}, False)],
    ids=["more is slower", "all of it is slow", "nearly as fast"],
)
def test_a_cliff_is_what_less_memory_does_not_have(
    monkeypatch: pytest.MonkeyPatch, rates: dict[int, float], cliff: bool
):
    monkeypatch.setattr(memory_cliff, "_rate", lambda held, piece: rates[len(held)])
    assert memory_cliff.slower_by_size(HELD, 1, 1 << 20) is cliff  # type: ignore[arg-type]


def test_one_fast_turn_of_more_memory_is_no_cliff(monkeypatch: pytest.MonkeyPatch):
    turns = iter([2.0, 10.0, 9.0, 10.0, *[2.0, 10.0] * 7])
    monkeypatch.setattr(memory_cliff, "_rate", lambda held, piece: next(turns))
    assert not memory_cliff.slower_by_size(HELD, 1, 1 << 20)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("native", "prefetch", "said"),
    [
        (
            [6.0, 6.1, 6.2],
            [7.0, 7.1, 7.0],
            ["--decode native: in the graph runs at 1.2", "--prefetch on: with it 1.1"],
        ),
        ([6.0, 4.0, 6.2], [7.0, 3.0, 9.0], ["--decode auto: neither way", "--prefetch off: no clear gain"]),
    ],
    ids=["clear", "noise"],
)
def test_what_was_faster_in_some_rounds_only_chooses_nothing(
    native: list[float], prefetch: list[float], said: list[str]
):
    rounds = {"mlx-lm": [9.0] * 3, "native": native, "readback": [5.0, 5.1, 5.0], "prefetch": prefetch}
    advice = advise([Finding("decode", DONE, 1.0, {"rounds": rounds, "trials": 3, "asked_trials": 3})])
    assert [line.startswith(start) for line, start in zip(advice.lines, said, strict=True)] == [True, True]
    assert (advice.calibration["native_gain"] is not None) is said[0].startswith("--decode native")
    assert (advice.calibration["prefetch_gain"] > 1) is said[1].startswith("--prefetch on")


def test_a_crossing_that_is_lost_in_the_noise_is_not_kept_as_free():
    figures = {"device": "cpu", "plain_seconds": 4e-4, "crossing_seconds": None, "read_back_seconds": 3e-5}
    found = [Finding("streams", DONE, 1.0, figures)]
    advice = advise(found)
    assert dict(advice.calibration) == {"read_back_seconds": 3e-5}
    report = markdown(found, advice, small=False)
    assert "| a way to a CPU stream and back | lost in the noise |" in report and "| a read-back | 30 us |" in report


def test_the_report_says_what_of_a_machine_fits(tmp_path: Path):
    from moe_mlx.examination.about_machine import examine

    figures = examine(tmp_path, small=True)
    assert figures["can_build"] is True or isinstance(figures["can_build"], str)
    assert figures["came_built"] is None  # nothing came along with a checkout
    assert "| can build | yes |" in markdown([Finding("machine", DONE, 1.0, figures)], advise([]), small=True)
