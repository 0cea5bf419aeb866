"""`@photo.png` in a message: the conversation keeps its place and digest, the model is shown the picture."""

from pathlib import Path

import pytest

pytest.importorskip("mlx_vlm", reason="mlx-vlm is not installed: the extra `vlm`")

from moe_mlx.errors import UsageError
from moe_mlx.vlm.pictures import PICTURE, text_of
from moe_mlx_tui.entry.commands import command_of
from moe_mlx_tui.entry.files import seen, split_files, with_files
from tests.families.pictures import png


def test_a_picture_goes_along_beside_texts(tmp_path: Path) -> None:
    photo, notes = tmp_path / "photo.png", tmp_path / "notes.txt"
    photo.write_bytes(png())
    notes.write_text("some notes")
    words = f"what is @{photo} and @{notes}?"
    content, missing = with_files(words)
    assert not missing and str(photo) in content and "some notes" in content
    shown, files = split_files(content)
    assert shown == words and [bool(file.digest) for file in files] == [False, True]

    answer = {"role": "assistant", "content": content}
    user, other = seen([{"role": "user", "content": content}, answer])
    assert other == answer, "what a model says is never taken for a picture"
    assert [part["type"] for part in user["content"]] == [PICTURE, "text"]
    assert user["content"][0][PICTURE].size == (48, 32)
    assert "<picture" not in text_of(user["content"]) and "some notes" in text_of(user["content"])

    photo.write_bytes(png((1, 2, 3)))
    with pytest.raises(UsageError, match="another picture"):
        seen([{"role": "user", "content": content}])
    photo.unlink()
    with pytest.raises(UsageError, match="no such file"):
        seen([{"role": "user", "content": content}])


def test_what_is_no_picture_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(bytes(100))
    with pytest.raises(UsageError, match="no picture that can be read"):
        with_files(f"@{tmp_path / 'no.png'}")


def test_the_command_needs_a_file() -> None:
    command, rest = command_of("/image photo.png") or (None, "")
    assert command is not None and command.action == "image" and rest == "photo.png"
    with pytest.raises(LookupError, match="/image needs FILE"):
        command_of("/image")
