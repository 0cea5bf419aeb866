"""Short runs of the soak commands."""

import pytest

from tests.soak import exactness, faults


def test_random_cases_equal_mlx_lm():
    done, wrong = exactness.run(36, seed=11, decode="readback", families=("qwen3_moe", "gpt_oss"))
    assert (done, wrong) == (36, 0)


def test_faults_end_their_turn_and_nothing_else():
    counts = faults.run(600, seed=5, decode="readback", turns=60, families=("qwen3_moe", "gpt_oss"))
    assert counts["answers compared"] == 60
    assert counts["turns ended by an error"] > 0


@pytest.mark.slow
def test_a_thousand_random_cases_equal_mlx_lm():
    assert exactness.run(1000)[1] == 0
