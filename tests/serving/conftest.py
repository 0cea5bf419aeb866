"""One server for the tests that leave it as it was."""

from collections.abc import Iterator

import pytest

from tests.serving.running import Running, served


@pytest.fixture(scope="package")
def running() -> Iterator[Running]:
    with served("--max-tokens", "12") as server:
        yield server
