"""Where a store may not be written, whichever name or mount leads there; what is somebody's is left alone."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.cli import main
from moe_mlx.errors import MoeMlxError, MoeMlxWarning, UsageError
from moe_mlx.store import open_source
from moe_mlx.store.durable import Fs
from moe_mlx_convert import convert, verify
from moe_mlx_convert.checkpoint import read_checkpoint
from tests.checkpoints import make_checkpoint
from tests.convert.contents import contents
from tests.ordinary_user import as_an_ordinary_user


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("places") / "source")


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "source"))


def refused(source: Path, destination: Path | str, match: str) -> None:
    before = contents(source)
    with pytest.raises(MoeMlxError, match=match) as caught:
        convert(str(source), destination)
    assert caught.value.exit_code == 2
    assert contents(source) == before


def test_a_checkpoint_in_the_place_of_the_unfinished_store(source: Path, tmp_path: Path) -> None:
    folder = source.rename(tmp_path / "model.partial")
    refused(folder, tmp_path / "model", "inside the checkpoint")
    shutil.copy(folder / "config.json", folder / ".journal.jsonl")
    refused(folder, tmp_path / "model", "inside the checkpoint")


def test_files_of_the_right_names_without_a_journal_are_somebodys(source: Path, tmp_path: Path) -> None:
    kept = Path(shutil.copytree(source, tmp_path / "model.partial"))
    shutil.rmtree(source)
    source.mkdir()
    for path in kept.iterdir():
        (source / path.name).symlink_to(path)
    refused(source, tmp_path / "model", "not touched")
    assert len(list(kept.iterdir())) == len(list(source.iterdir()))


def test_links_and_mounts_that_lead_into_the_checkpoint(source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    refused(source, tmp_path / "link" / "store", "inside the checkpoint")
    refused(tmp_path / "link", source / "a" / "b" / "store", "inside the checkpoint")
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    mount = tmp_path / "mount"
    mount.mkdir()
    if subprocess.run(["mount", "--bind", str(source), str(mount)], capture_output=True, check=False).returncode:
        return
    try:
        refused(source, mount / "store", "inside the checkpoint")
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_store_is_never_named_like_an_unfinished_one(source: Path, tmp_path: Path) -> None:
    refused(source, tmp_path / "store.partial", "marks unfinished stores")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["convert", "--model", "~nobody.at.all/m", "--mlx-path", "{tmp}/store"], 2),
        (["convert", "--model", "{source}", "--mlx-path", "~nobody.at.all/store"], 2),
        (["convert", "--model", "{source}", "--mlx-path", "{tmp}/" + "n" * 300], 3),
        (["convert", "--model", "{source}", "--mlx-path", "{tmp}/loop/store"], 3),
        (["convert", "--model", "{source}", "--mlx-path", "/"], 2),
        (["convert", "--model", "{source}", "--mlx-path", "{tmp}/store\udcff"], 2),
        (["convert", "--model", "{source}", "--mlx-path", "{tmp}/\udcff/store"], 2),
        (["convert", "--model", "{tmp}/\udcff", "--mlx-path", "{tmp}/store"], 2),
        (["generate", "--model", "{tmp}/\udcff", "-p", "x"], 2),
        (["generate", "--model", "{source}", "--adapter-path", "{tmp}/\udcff", "-p", "x"], 2),
        (["inspect", "{tmp}/\udcff"], 2),
        (["plan", "~nobody.at.all/m"], 2),
        (["inspect", "n" * 300], 1),
        (["verify", "n" * 300], 1),
    ],
)
def test_paths_that_cannot_be(
    words: list[str], code: int, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with contextlib.suppress(OSError):  # not every file system has such names
        shutil.copytree(source, tmp_path / "\udcff")
    assert main([word.format(source=source, tmp=tmp_path) for word in words]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "unexpected" not in err
    assert not list(tmp_path.glob("store*"))


UNKEPT = {
    "a backslash": "a\\b.json",
    "a line feed": "a\nb.json",
    "a control": "a\x9b2J.json",
    "too long": "n" * 246 + ".json",
    "no UTF-8": os.fsdecode(b"\xff.json"),
}


@pytest.mark.parametrize("name", UNKEPT.values(), ids=UNKEPT.keys())
def test_a_name_that_no_store_holds_is_refused_before_the_first_write(name: str, source: Path, tmp_path: Path) -> None:
    try:
        (source / name).write_text("{}")
    except OSError:
        pytest.skip("this file system has no such names")
    refused(source, tmp_path / "store", "no file of such a name")
    assert not (tmp_path / "store.partial").exists()


def test_a_file_named_like_a_journal_is_copied_and_resumed(source: Path, tmp_path: Path) -> None:
    class Stopping(Fs):
        count = 0

        def create(self, path: Path) -> int:
            self.count += 1
            if self.count == 9:
                raise OSError(errno.ENOSPC, "full")
            return super().create(path)

    (source / "journal.jsonl").write_text(json.dumps({"mark": "another", "fingerprint": {}}))
    with pytest.raises(MoeMlxError, match="disk is full"):
        convert(str(source), tmp_path / "store", fs=Stopping(), workers=1)
    assert convert(str(source), tmp_path / "store").files_resumed > 0
    assert (tmp_path / "store" / "journal.jsonl").read_bytes() == (source / "journal.jsonl").read_bytes()
    assert verify(tmp_path / "store").ok


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_taken(
    code: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(MoeMlxWarning, match="cannot lock folders"):
        convert(str(source), tmp_path / "store")
    assert verify(tmp_path / "store").ok


@pytest.mark.parametrize("entry", [{"fingerprint": [1]}, {"fingerprint": 5}, {"mark": [1]}, {"fingerprint": "x"}])
def test_a_journal_of_wrong_types_begins_anew(entry: dict[str, object], source: Path, tmp_path: Path) -> None:
    partial = tmp_path / "store.partial"
    partial.mkdir()
    (partial / ".journal.jsonl").write_text(json.dumps({"mark": "m", "fingerprint": {}, **entry}))
    assert convert(str(source), tmp_path / "store").files_resumed == 0
    open_source(tmp_path / "store").close()


def test_a_file_that_vanishes_before_the_first_write(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*words: Any, **options: Any) -> Any:
        checkpoint = read_checkpoint(*words, **options)
        checkpoint.verbatim[-1].unlink()
        return checkpoint

    monkeypatch.setattr("moe_mlx_convert.reshard.read_checkpoint", read)
    with pytest.raises(MoeMlxError, match="No such file or directory while reading the checkpoint") as caught:
        convert(str(source), tmp_path / "store")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "store.partial").exists()


def test_a_folder_of_another_user_is_refused(made: Path) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:
        folder = Path(open_to_all)
        folder.chmod(0o755)
        source = Path(shutil.copytree(made, folder / "source"))
        (folder / "private").mkdir(mode=0o700)

        def check() -> None:
            with pytest.raises(MoeMlxError, match="may not be written to") as caught:
                convert(str(source), folder / "private" / "store")
            assert caught.value.exit_code == 2

        as_an_ordinary_user(check)


def test_standard_error_may_be_closed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    convert(str(source), tmp_path / "store")
    assert verify(tmp_path / "store").ok


def test_what_finder_adds_neither_blocks_resuming_nor_is_touched(source: Path, tmp_path: Path) -> None:
    class Interrupted(Fs):
        """The third file cannot be made."""

        made = 0

        def create(self, path: Path) -> int:
            self.made += 1
            if self.made == 3:
                raise OSError(errno.EIO, "gone")
            return super().create(path)

    with pytest.raises(MoeMlxError):
        convert(str(source), tmp_path / "model", fs=Interrupted(), workers=1)
    partial = tmp_path / "model.partial"
    folders = [partial, *(path for path in partial.rglob("*") if path.is_dir())]
    for folder in folders:
        (folder / ".DS_Store").write_bytes(b"view")
        (folder / "._config.json").write_bytes(b"what an exFAT disk cannot store")
    convert(str(source), tmp_path / "model", workers=1)
    store = tmp_path / "model"
    assert (store / ".DS_Store").read_bytes() == b"view"
    assert not verify(store).damage
    with open_source(store) as opened:
        assert opened.layers


def test_a_converter_that_was_overtaken_makes_nothing_of_its_own(source: Path, tmp_path: Path) -> None:
    """Another one names its store after this one looked for it, and before this one takes the unfinished folder."""

    class Overtaken(Fs):
        def mkdir(self, path: Path) -> None:
            if not (tmp_path / "store").exists():
                convert(str(source), tmp_path / "store")
            super().mkdir(path)

    with pytest.raises(UsageError, match="another converter finished it just now"):
        convert(str(source), tmp_path / "store", fs=Overtaken())
    assert not (tmp_path / "store.partial").exists()
