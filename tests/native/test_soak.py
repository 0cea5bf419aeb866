"""A short run of the soak command with decode in the graph."""

from typing import Any

from tests.soak import faults


def test_faults_end_their_turn_and_nothing_else(native: Any):
    counts = faults.run(600, seed=7, decode="native", turns=60, families=("qwen3_moe", "deepseek_v3"))
    assert counts["answers compared"] == 60
    assert counts["turns ended by an error"] > 0
