"""Which compiler is asked for, and what macOS's stand-in for one says."""

from types import SimpleNamespace

import pytest

from moe_mlx.native import build


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A Mac without Command Line Tools, and what is started on it."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=2)

    monkeypatch.setattr(build, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(build.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(build.subprocess, "run", run)
    monkeypatch.delenv("CXX", raising=False)
    return commands


def test_without_command_line_tools_no_shim_is_started(asked: list[list[str]]):
    with pytest.raises(build.NativeUnavailableError, match=r"Command Line Tools are not installed \(xcode-select"):
        build.find_compiler()
    assert asked == [["/usr/bin/xcode-select", "-p"]]


def test_with_them_clang_is_the_compiler(asked: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build.subprocess, "run", lambda command, **options: SimpleNamespace(returncode=0))
    assert build.find_compiler() == ["clang++"]


def test_a_named_compiler_needs_none(asked: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "/opt/llvm/bin/clang++ -g")
    assert build.find_compiler() == ["/opt/llvm/bin/clang++", "-g"]
    assert asked == []


def test_a_system_without_xcode_select_is_let_pass(asked: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    def missing(command: list[str], **options: object) -> None:
        raise FileNotFoundError(2, "no such file", command[0])

    monkeypatch.setattr(build.subprocess, "run", missing)
    assert build.find_compiler() == ["clang++"]
