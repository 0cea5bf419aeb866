"""A sample of the server's ordeal; `python -m tests.soak.server --minutes 60` is the whole of it."""

import pytest

from tests.soak.server import run


@pytest.mark.slow
@pytest.mark.parametrize("decode", ["readback", "auto"])
def test_the_server_outlives_its_clients(decode: str):
    found = run(0.5, 6, decode, seed=7)
    assert (found["deaths"], found["faults"], found["within_plan"]) == (0, 0, True), found
    assert found["compared"] > 0 and found["hostile"] > 0 and found["damages"] > 0
