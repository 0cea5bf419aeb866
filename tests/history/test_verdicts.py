"""What evaluations found of light experts: kept per model, of one setting the latest; what is no such file is none."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from moe_mlx.history.verdicts import Verdict, keep_verdicts, read_verdicts, verdicts_path

MODEL = "0123456789abcdef"
FOUND = Verdict("late", 0.6, 1, "exact", "50%", 700, 0.0004, -0.0006, 0.987)


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tmp_path in verdicts_path(MODEL).parents
    return verdicts_path(MODEL)


def test_of_one_setting_the_latest_is_kept_for_its_user_only(path: Path):
    assert read_verdicts(MODEL) == []
    keep_verdicts(MODEL, [FOUND, replace(FOUND, cache="25%")])
    keep_verdicts(MODEL, [replace(FOUND, kl=0.5)])
    assert read_verdicts(MODEL) == [replace(FOUND, kl=0.5), replace(FOUND, cache="25%")]
    assert path.stat().st_mode & 0o077 == 0
    assert read_verdicts("another") == []


def _written(**changes: object) -> bytes:
    row = {name: getattr(FOUND, name) for name in Verdict.__slots__}
    return json.dumps({"format": "moe-mlx verdicts", "version": 1, "verdicts": [row | changes]}).encode()


HOSTILE = {
    "no JSON": b"{",
    "too deep": b"[" * 100_000,
    "a list": b"[]",
    "another format": _written().replace(b"moe-mlx", b"other"),
    "another version": _written().replace(b'"version": 1', b'"version": 2'),
    "no rows": b'{"format": "moe-mlx verdicts", "version": 1, "verdicts": 3}',
    "a word as a number": _written(kl="low"),
    "a number as a word": _written(light=3),
    "a field too many": _written(more=1),
    "no text": b"\xff\xfe",
    "too large": b" " * 1_000_000 + _written(),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_such_file_is_no_verdict_and_written_anew(path: Path, kind: str):
    path.parent.mkdir(parents=True)
    path.write_bytes(HOSTILE[kind])
    assert read_verdicts(MODEL) == []
    keep_verdicts(MODEL, [FOUND])
    assert read_verdicts(MODEL) == [FOUND]


def test_the_case_that_the_broken_ones_are_made_from_is_sound(path: Path):
    path.parent.mkdir(parents=True)
    path.write_bytes(_written())
    assert read_verdicts(MODEL) == [FOUND]


def test_a_pipe_in_its_place_is_none_at_once(path: Path):
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert read_verdicts(MODEL) == []
