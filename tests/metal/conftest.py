"""These run on Metal alone; everywhere else each says so and is skipped."""

from collections.abc import Iterator

import mlx.core as mx
import pytest


@pytest.fixture(autouse=True)
def on_the_gpu() -> Iterator[None]:
    if not mx.metal.is_available():
        pytest.skip("there is no Metal here")
    before = mx.default_device()
    mx.set_default_device(mx.gpu)
    yield
    mx.set_default_device(before)
