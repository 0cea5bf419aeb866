"""The built extension is loaded whole or not at all, and built by one process at a time; leftovers go."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.native import build, kept
from moe_mlx.native.toolchain import NativeUnavailableError
from tests.native.compilers import compiler, end, hanging, links, said, start, told_by


@pytest.fixture
def library(native: Any) -> Path:
    """The extension, as a real compiler built it."""
    return Path(native.__file__)


def built(cache: Path) -> Path:
    (found,) = (cache / "moe-mlx/native").glob("*/*.so")
    return found


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def hole(path: Path) -> None:
    data = bytearray(path.read_bytes())
    third = len(data) // 3
    data[third : 2 * third] = bytes(third)
    path.write_bytes(data)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def unseal(path: Path) -> None:
    path.with_suffix(".seal").unlink()


DAMAGES: list[Callable[[Path], Any]] = [
    cut,
    hole,
    flip,
    unseal,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_text("no library\n"),
    lambda path: path.with_suffix(".seal").write_bytes(b"\xff"),
]
NAMES = ["cut", "hole", "flip", "no seal", "empty", "text", "another seal"]


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize("damage", DAMAGES, ids=NAMES)
def test_what_is_damaged_is_built_anew_once(library: Path, tmp_path: Path, damage: Callable[[Path], Any]):
    cxx = compiler(tmp_path, library)
    assert said(start(tmp_path, cxx))[-1] == "loaded"
    damage(built(tmp_path))
    lines = said(start(tmp_path, cxx))
    assert (len(lines), lines[-1], links(tmp_path)) == (2, "loaded", 2)
    assert "anew, for the built file is damaged" in lines[0]
    assert (said(start(tmp_path, cxx)), links(tmp_path)) == (["loaded"], 2)


def test_a_disk_that_gives_back_something_else_is_told(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = kept.put_in_place

    def spoil(made: Path, path: Path) -> None:
        whole(made, path)
        flip(path)

    monkeypatch.delitem(sys.modules, build.MODULE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(compiler(tmp_path, library)))
    monkeypatch.setattr(kept, "put_in_place", spoil)
    with pytest.raises(NativeUnavailableError, match="the disk does not give back what was built"):
        build.load_native(lambda line: None)
    assert links(tmp_path) == 1


def test_what_a_killed_build_leaves_is_swept(library: Path, tmp_path: Path):
    cxx, pipe = hanging(tmp_path, library)
    killed = start(tmp_path, cxx)
    pids = told_by(pipe)
    killed.kill()
    killed.communicate()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    folder = tmp_path / "moe-mlx/native"
    assert list(folder.glob("*.work-*"))
    compiler(tmp_path, library)
    assert said(start(tmp_path, cxx))[-1] == "loaded"
    assert not list(folder.glob("*.work-*"))


def test_ctrl_c_ends_the_build_and_all_it_started(library: Path, tmp_path: Path):
    cxx, pipe = hanging(tmp_path, library)
    process = start(tmp_path, cxx)
    pids = told_by(pipe)
    os.kill(process.pid, signal.SIGINT)  # this process alone, as an app or a supervisor does
    process.communicate(timeout=90)
    assert process.returncode == 130
    assert end(pids)
    assert not list((tmp_path / "moe-mlx/native").glob("*.work-*"))


def test_a_program_that_ends_takes_the_compiler_with_it(library: Path, tmp_path: Path):
    cxx, pipe = hanging(tmp_path, library)
    code = f"""
import threading
from moe_mlx.native import build
threading.Thread(target=lambda: build.load_native(print), daemon=True).start()
print(open({str(pipe)!r}).read())
"""
    process = start(tmp_path, cxx, code)
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    started = [int(pid) for pid in re.findall(r"\d+", out.splitlines()[-2])]
    assert end(started)


def test_a_second_start_waits_and_says_what_for(library: Path, tmp_path: Path):
    pipe = tmp_path / "go"
    os.mkfifo(pipe)
    cxx = compiler(tmp_path, library, f'case "$*" in *-shared*|*-bundle*) read go <"{pipe}";; esac')
    first = start(tmp_path, cxx)
    assert first.stdout is not None
    assert first.stdout.readline().startswith("building the in-graph decode")
    second = start(tmp_path, cxx)
    assert second.stdout is not None
    assert second.stdout.readline().startswith(f"waiting for process {first.pid}, which builds the in-graph decode")
    pipe.write_text("go\n")
    assert (said(first), said(second), links(tmp_path)) == (["loaded"], ["loaded"], 1)


def test_a_second_start_does_not_wait_for_ever(library: Path, tmp_path: Path):
    cxx, pipe = hanging(tmp_path, library)
    first = start(tmp_path, cxx)
    told_by(pipe)
    lines = said(start(tmp_path, cxx, patience=0.2))
    assert lines[1:] == ["another process has been building it for 0.2 s"]
    os.kill(first.pid, signal.SIGINT)
    first.communicate(timeout=90)


def test_a_wait_is_broken_off_by_ctrl_c(tmp_path: Path):
    home, begun = tmp_path / "home", threading.Event()

    def say(line: str) -> None:
        begun.set()
        raise KeyboardInterrupt

    with kept.alone(home, print, 1), pytest.raises(KeyboardInterrupt), kept.alone(home, say, 60):
        pass
    assert begun.is_set()
