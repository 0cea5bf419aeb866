"""Which compiler is asked for, what macOS's stand-in for one says, and compilers that misbehave."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from moe_mlx.native import build, toolchain


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A Mac without Command Line Tools, and what is started on it."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=2)

    monkeypatch.setattr(toolchain, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(toolchain.subprocess, "run", run)
    monkeypatch.delenv("CXX", raising=False)
    return commands


def test_without_command_line_tools_no_shim_is_started(asked: list[list[str]]):
    with pytest.raises(toolchain.NativeUnavailableError, match=r"Command Line Tools are not installed \(xcode-select"):
        toolchain.find_compiler()
    assert asked == [["/usr/bin/xcode-select", "-p"]]


def test_with_them_clang_is_the_compiler(asked: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(toolchain.subprocess, "run", lambda command, **options: SimpleNamespace(returncode=0))
    assert toolchain.find_compiler() == ["clang++"]


def test_a_named_compiler_needs_none(asked: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "/opt/llvm/bin/clang++ -g")
    assert toolchain.find_compiler() == ["/opt/llvm/bin/clang++", "-g"]
    assert asked == []


def test_a_system_without_xcode_select_is_let_pass(asked: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    def missing(command: list[str], **options: object) -> None:
        raise FileNotFoundError(2, "no such file", command[0])

    monkeypatch.setattr(toolchain.subprocess, "run", missing)
    assert toolchain.find_compiler() == ["clang++"]


def made(folder: Path, script: str) -> str:
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


VERSION = '[ "$1" = --version ] && { echo 1; exit 0; }\n'


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            VERSION + r"printf 'x.cpp: error: \377\033[1m\n' >&2; exit 1",
            "the compiler failed: x.cpp: error: \ufffd\\x1b[1m",
        ),
        (r"printf '\377\n'; exit 1", "CXX does not run (the compiler failed: \ufffd)"),
        ("exec sleep 1000", "CXX does not run (CXX had not ended after 0.5 s)"),
        (VERSION + "exec sleep 1000", "CXX had not ended after 0.5 s"),
        (VERSION + "exit 7", "the compiler failed: exit code 7"),
        (VERSION + "kill -9 $$", "the compiler failed: signal 9"),
        (VERSION + "exit 0", "CXX made nothing, and called that a success"),
    ],
    ids=["no UTF-8", "a version that is none", "hangs at its version", "hangs", "no reason", "killed", "makes nothing"],
)
def test_a_compiler_that_misbehaves_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
):
    monkeypatch.delitem(sys.modules, build.MODULE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", cxx := made(tmp_path, script))
    monkeypatch.setattr(build, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(toolchain, "VERSION_SECONDS", 0.5)
    with pytest.raises(toolchain.NativeUnavailableError) as failed:
        build.load_native(lambda line: None)
    assert reason in str(failed.value).replace(cxx, "CXX")
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        ("clang++ 'unbalanced", "$CXX cannot be taken apart (No closing quotation): clang++ 'unbalanced"),
        ("clang++ \\", "$CXX cannot be taken apart (No escaped character): clang++ \\"),
        ("''", "no C++ compiler ('')"),
        ("no-such \udcff", "no C++ compiler (no-such \\udcff)"),
    ],
)
def test_a_variable_that_names_no_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch, variable: str, reason: str):
    monkeypatch.setenv("CXX", variable)
    with pytest.raises(toolchain.NativeUnavailableError) as failed:
        toolchain.find_compiler()
    assert str(failed.value) == reason


def test_an_argument_that_is_no_utf_8_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", made(tmp_path, VERSION + "exit 1") + " -I\udcff")
    with pytest.raises(toolchain.NativeUnavailableError, match="the compiler failed"):
        build.build(lambda line: None)


def test_what_took_too_long_is_not_tried_at_every_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", made(tmp_path, VERSION + f'echo >>"{tmp_path}/tries"; exec sleep 1000'))
    monkeypatch.setattr(build, "PATIENCE_SECONDS", 0.5)
    said: list[str] = []
    for pattern in (
        r"had not ended after 0\.5 s$",
        r"had not ended after 0.5 s, 0 minutes ago \(remove .*gave-up to try",
    ):
        with pytest.raises(toolchain.NativeUnavailableError, match=pattern):
            build.build(said.append)
    assert len(said) == 1
    (note,) = (tmp_path / "moe-mlx/native").glob("*.gave-up")
    os.utime(note, (0, 0))
    with pytest.raises(toolchain.NativeUnavailableError, match=r"had not ended after 0\.5 s$"):
        build.build(said.append)
    assert len(said) == 2
