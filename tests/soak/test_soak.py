"""Short runs of the soak commands."""

import pytest

from tests.soak import exactness, faults


@pytest.mark.parametrize("cases", [12, pytest.param(36, marks=pytest.mark.slow)])
def test_random_cases_equal_mlx_lm(cases: int):
    done, wrong = exactness.run(cases, seed=11, decode="readback", families=("qwen3_moe", "gpt_oss"))
    assert (done, wrong) == (cases, 0)


@pytest.mark.parametrize("turns", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_faults_end_their_turn_and_nothing_else(turns: int):
    counts = faults.run(600, seed=5, decode="readback", turns=turns, families=("qwen3_moe", "gpt_oss"))
    assert counts["answers compared"] == turns
    assert counts["turns ended by an error"] > 0


@pytest.mark.slow
def test_a_thousand_random_cases_equal_mlx_lm():
    assert exactness.run(1000)[1] == 0
