"""A short run of the soak command with decode in the graph."""

from typing import Any

import pytest

from tests.soak import faults


@pytest.mark.parametrize("turns", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_faults_end_their_turn_and_nothing_else(native: Any, turns: int):
    counts = faults.run(600, seed=7, decode="native", turns=turns, families=("qwen3_moe", "deepseek_v3"))
    assert counts["answers compared"] == turns
    assert counts["turns ended by an error"] > 0
