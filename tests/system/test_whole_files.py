"""Files that are there whole or not at all."""

import os
from pathlib import Path

import pytest

from moe_mlx.system.whole_files import put_in_place, whole_file, write_whole


def test_a_file_takes_the_place_of_the_old_one(tmp_path: Path):
    path = tmp_path / "made" / "here.json"
    for text in ("first", "zweite, äöü"):
        write_whole(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [found.name for found in path.parent.iterdir()] == ["here.json"]


@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o644)])
def test_who_may_read_it(tmp_path: Path, private: bool, mode: int):
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "folder" / "file", "x", private=private)
    finally:
        os.umask(before)
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == mode
    assert (tmp_path / "folder").stat().st_mode & 0o777 == (0o700 if private else 0o755)


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_it_holds_reaches_the_drive_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, synced = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((os.fstat(fd).st_size, path.exists())))
    write_whole(path, "12345")
    assert synced == [(5, False)]
    made = tmp_path / "made"
    made.write_text("123")
    put_in_place(made, tmp_path / "other")
    assert synced[1][0] == 3 and not made.exists()


def test_a_link_at_its_place_is_replaced_and_not_followed(tmp_path: Path):
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", "ours")
    assert (tmp_path / "target").read_text() == "theirs" and not (tmp_path / "link").is_symlink()
