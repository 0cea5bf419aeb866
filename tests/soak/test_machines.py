"""A short run of the soak command of several machines."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.broken_group import LIMIT, Endless, damaged, killed


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endless]:
    with Endless.made(tmp_path_factory.mktemp("endless")) as made:
        yield made


def test_a_rank_that_is_killed_costs_no_wrong_token(endless: Endless, tmp_path: Path):
    ended = killed(tmp_path, endless, random.Random(3))
    assert not ended.wrong and ended.where == "answer of 2" and ended.compared and ended.seconds < LIMIT


def test_a_rank_whose_experts_are_damaged_costs_no_wrong_token(endless: Endless, tmp_path: Path):
    ended = damaged(tmp_path, endless, random.Random(8))
    assert not ended.wrong and ended.where == "flipped, answer of 2" and ended.compared and ended.seconds < LIMIT
