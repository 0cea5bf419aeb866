"""Prompt caches between answers: whatever is reused, the answer is the one that nothing was reused for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_mlx.serving.engine import Engine
from moe_mlx.serving.job import Drawing, Job
from moe_mlx.serving.limits import Limits
from tests.checkpoints import tiny_checkpoint
from tests.serving.engines import CheckpointOpening, answered

PROMPT = [30 + (7 * place) % 60 for place in range(50)]


@pytest.fixture(params=["qwen3_moe", "gpt_oss"])  # full attention; sliding windows, which are full by then
def engines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    checkpoint = tiny_checkpoint(request.param, tmp_path / "model")
    keeps, forgets = (Engine(CheckpointOpening(checkpoint, kept_sequences=count), Limits()) for count in (10, 0))
    for engine in (keeps, forgets):
        engine.start()
    yield keeps, forgets
    for engine in (keeps, forgets):
        engine.stop()


def job(prompt: list[int], *boundaries: int) -> Job:
    return Job(prompt, Drawing(6), lambda event: None, boundaries)


@pytest.mark.rows_by_day(1)
def test_what_goes_on_repeats_or_goes_another_way(engines: tuple[Engine, Engine]):
    keeps, forgets = engines
    said = answered(keeps, job(PROMPT, 20, 49))
    for prompt in (
        [*PROMPT, *said],  # the very prompt that was kept
        [*PROMPT, *said, *PROMPT[:9]],
        PROMPT,
        [*PROMPT[:20], *PROMPT[::-1]],
    ):
        mine = job(prompt, 20, len(prompt) - 1)
        assert answered(keeps, mine) == answered(forgets, job(prompt))
        assert mine.reused >= 20
