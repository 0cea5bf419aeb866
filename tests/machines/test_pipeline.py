"""Layers shared among processes: tokens, logits and counts of one process, whatever the split and the routing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moe_mlx.store.demo import demo_path
from tests.fewer_bits import drawn_store
from tests.machines.ranks import LIMIT, ranks

WORDS = ["-m", "tests.machines.many_answers", "--expert-cache", "50%", "--max-tokens", "24"]


@pytest.fixture(scope="module")
def alone() -> list[dict]:
    return by_one()


def by_one(*words: str) -> list[dict]:
    done = subprocess.run([sys.executable, *WORDS, *words], capture_output=True, text=True, timeout=LIMIT, check=True)
    return json.loads(done.stdout)


def together(folder: Path, words: list[str], size: int) -> list[dict]:
    with ranks(folder, [[*WORDS, "--parallel", "pipeline", *words]] * size) as group:
        codes = [rank.wait() for rank in group]
        assert codes == [0] * size, [rank.said for rank in group]
        return json.loads(group[0].told)


@pytest.mark.slow
def test_two_processes_answer_as_one(alone: list[dict], tmp_path: Path):
    found = together(tmp_path, ["--split", "3,5"], 2)
    for ours, theirs in zip(found, alone, strict=True):
        machines = ours.pop("machines")
        assert {**ours, "machines": [], "residency": theirs["residency"]} == theirs
        assert [row["layers"] for row in machines] == [[5, 6, 7], [0, 1, 2, 3, 4]]
        assert {row["decode_way"] for row in machines} == {ours["way"]}


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--split", "1,1,6"]])
def test_three_processes_answer_as_one(alone: list[dict], tmp_path: Path, words: list[str]):
    found = together(tmp_path, words, 3)
    for ours, theirs in zip(found, alone, strict=True):
        assert {**ours, "machines": [], "residency": theirs["residency"]} == theirs
        assert len(ours["machines"]) == 3


@pytest.mark.slow
def test_experts_with_bits_of_their_own_are_answered_from_as_by_one(alone: list[dict], tmp_path: Path):
    words = ["--model", str(drawn_store(demo_path(), tmp_path / "few"))]
    expected = by_one(*words)
    assert all(few["logits"] != whole["logits"] for few, whole in zip(expected, alone, strict=True))
    for ours, theirs in zip(together(tmp_path, [*words, "--split", "3,5"], 2), expected, strict=True):
        assert len(ours["machines"]) == 2
        assert {**ours, "machines": [], "residency": theirs["residency"]} == theirs
