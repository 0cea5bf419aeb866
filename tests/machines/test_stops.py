"""Answers that are stopped at any token: what was said is right, and so is what is said next."""

import json
from pathlib import Path

import pytest

from tests.machines.ranks import ranks


@pytest.mark.slow
@pytest.mark.parametrize("way", ["native", "readback"])
def test_random_stops_leave_no_wrong_token(tmp_path: Path, way: str):
    words = ["-m", "tests.machines.random_stops", "8", "1", "--routing", "exact", "--decode", way, "-m", "24"]
    with ranks(tmp_path, [[*words, "--expert-cache", "25%"]] * 2) as group:
        assert [rank.wait() for rank in group] == [0, 0], [rank.said for rank in group]
        found = json.loads(group[0].told)
    assert found["wrong"] == 0 and found["late"] <= 2 and found["machines"] == 2
