"""The history file: what is written is read again, what is old fades, and whatever else lies there is told."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.errors import UsageError
from moe_mlx.history import file as history
from moe_mlx.history.file import LayerHistory, NoHistoryError, history_path, read_history, write_history
from moe_mlx.store import ExpertLayer, TensorSpec

MODEL = "0123456789abcdef" * 2
LAYERS = tuple(
    ExpertLayer(index, index, f"layers.{index}", 4, 2, (TensorSpec("w", "F32", (2,)),)) for index in range(2)
)
KEPT = (LayerHistory((1, 2.5, 0, 4), (0, 1, 2, 3), (5, 0, 1, 0, 2)), LayerHistory.empty(4))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "folder" / f"{MODEL}.json"


def test_round_trip_for_its_user_only(path: Path):
    assert read_history(path, MODEL, LAYERS) is None
    write_history(path, MODEL, KEPT)
    write_history(path, MODEL, KEPT)
    assert read_history(path, MODEL, LAYERS) == KEPT
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert set(json.loads(path.read_text())) == {"format", "version", "model", "layers"}


def test_what_is_old_weighs_half_after_so_many_tokens():
    first = LayerHistory((100.0, 0.0), (40.0, 0.0), (0.0, 0.0, 100.0))
    silent, prompt = LayerHistory.empty(2), LayerHistory((0.0, 0.0), (0.0, history.HALF_LIFE * 1.0), (0.0, 0.0, 0.0))
    decode = LayerHistory((0.0, history.HALF_LIFE * 1.0), (0.0, 0.0), (0.0, history.HALF_LIFE * 1.0, 0.0))
    assert first.followed_by(silent, 1) == first
    after = first.followed_by(decode, 1)
    assert (after.uses, after.rows) == ((50.0, float(history.HALF_LIFE)), (40.0, 0.0))
    assert after.distances == (0.0, float(history.HALF_LIFE), 50.0)
    assert first.followed_by(prompt, 1).rows == (20.0, float(history.HALF_LIFE))
    many = first
    for _ in range(200):
        many = many.followed_by(decode, 1)
    assert many.uses[1] < 2 * history.HALF_LIFE + 1, "bounded, however long it is used"
    assert many.uses[0] == 0.0


def test_the_hottest_come_first_and_the_unused_never():
    assert LayerHistory((1, 0, 5, 1), (4, 0, 0, 4), (0.0,) * 5).hottest() == [0, 2, 3]


def broken(**changes: Any) -> bytes:
    good: dict[str, Any] = {"format": history.FORMAT, "version": 1, "model": MODEL}
    layer = {"uses": [1, 2, 3, 4], "rows": [0, 0, 0, 0], "distances": [1, 2, 3, 4, 5]}
    return json.dumps({**good, "layers": [layer, {**layer, **changes.pop("layer", {})}], **changes}).encode()


HOSTILE = {
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "too deep": b"[" * 200_000,
    "a number of 5,000 digits": b'{"format": ' + b"9" * 5000 + b"}",
    "foreign": broken(format="calibration"),
    "from the future": broken(version=2),
    "another model's": broken(model="f" * 32),
    "fewer layers": broken(layers=[]),
    "a layer that is none": broken(layers=[None, None]),
    "fewer experts": broken(layer={"uses": [1, 2, 3]}),
    "a field missing": broken(layer={"rows": None}),
    "text": broken(layer={"uses": [1, 2, "3", 4]}),
    "true": broken(layer={"uses": [1, 2, True, 4]}),
    "below zero": broken(layer={"uses": [1, 2, -3, 4]}),
    "no number": broken(layer={"uses": [1, 2, float("nan"), 4]}),
    "endless": broken(layer={"uses": [1, 2, float("inf"), 4]}),
    "absurd": broken(layer={"uses": [1, 2, 10**400, 4]}),
    "too large": broken() + b" " * history.LARGEST_FILE,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_history_is_told(path: Path, kind: str):
    path.parent.mkdir(parents=True)
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(NoHistoryError):
        read_history(path, MODEL, LAYERS)


def test_the_case_that_the_broken_ones_are_made_from_is_sound(path: Path):
    path.parent.mkdir(parents=True)
    path.write_bytes(broken())
    assert read_history(path, MODEL, LAYERS)


def test_a_pipe_or_a_folder_in_its_place_is_told_at_once(path: Path):
    path.mkdir(parents=True)
    with pytest.raises(NoHistoryError):
        read_history(path, MODEL, LAYERS)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(NoHistoryError):
        read_history(path, MODEL, LAYERS)


def test_a_failed_writing_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch):
    write_history(path, MODEL, KEPT)

    def refuse(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        write_history(path, MODEL, (KEPT[1], KEPT[1]))
    assert read_history(path, MODEL, LAYERS) == KEPT
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(history.VARIABLE)
    assert history.check_history("auto") == "auto"
    assert history_path("auto", MODEL) == tmp_path / "moe-mlx" / "history" / f"{MODEL}.json"
    assert history_path(tmp_path / "mine", MODEL) == tmp_path / "mine" / f"{MODEL}.json"
    monkeypatch.setenv(history.VARIABLE, str(tmp_path / "theirs"))
    assert history_path("auto", MODEL) == tmp_path / "theirs" / f"{MODEL}.json"
    monkeypatch.setenv(history.VARIABLE, "off")
    assert history.check_history("auto") is None
    assert history.check_history(tmp_path) == tmp_path, "what was asked for by name stays"
    with pytest.raises(UsageError, match="auto"):
        history.check_history("")
