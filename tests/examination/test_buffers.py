"""MLX_MAX_OPS_PER_BUFFER is tried in a process of its own, compared as a share of mlx-lm, and never set for anybody."""

import os

import pytest

from moe_mlx.examination.advice import advise
from moe_mlx.examination.buffer_rates import VARIABLE
from moe_mlx.examination.part import DONE, PARTS, Finding

OURS = {"mlx-lm": 10.0, "native": 8.0, "readback": 5.0}


def advised(theirs: dict[str, float]) -> tuple[int | None, list[str]]:
    advice = advise(
        [
            Finding("decode", DONE, 1.0, {"tokens_per_second": OURS}),
            Finding("buffers", DONE, 1.0, {"value": 8, "tokens_per_second": theirs}),
        ]
    )
    return advice.calibration["ops_per_buffer"], [line for line in advice.lines if VARIABLE in line]


def test_a_gain_is_kept_and_advised_with_its_size():
    kept, lines = advised({"mlx-lm": 10.0, "auto": 12.5})
    assert kept == 8 and lines == ["MLX_MAX_OPS_PER_BUFFER=8 in the environment: 1.56 times the speed"]


@pytest.mark.parametrize(
    "theirs",
    [{"mlx-lm": 10.0, "auto": 8.0}, {"mlx-lm": 5.0, "auto": 4.0}, {"mlx-lm": 10.0, "auto": 6.0}],
    ids=["the same", "a machine that was disturbed meanwhile", "slower"],
)
def test_no_gain_is_no_advice(theirs: dict[str, float]):
    assert advised(theirs) == (0, [])


def test_only_the_part_s_process_gets_it():
    assert [part.name for part in PARTS if VARIABLE in part.environment] == ["buffers"]
    assert VARIABLE not in os.environ
