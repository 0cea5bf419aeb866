"""What `make check-arm` says where a tool or a package cannot be had, and where a case differs."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.cross import arm_cases, check_arm, wheels


def test_a_missing_tool_is_no_pass(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("PATH", "/none")
    monkeypatch.setattr(sys, "argv", ["check_arm"])
    assert check_arm.main() == check_arm.NOT_CHECKED
    assert "NOT CHECKED: arm64; qemu-aarch64-static is not on this machine" in capsys.readouterr().err


def test_packages_that_cannot_be_had_are_no_pass_and_leave_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in check_arm.TOOLS:
        (tools / name).write_text("#!/bin/sh\necho no such mirror >&2\nexit 1\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.setenv(wheels.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["check_arm"])
    assert check_arm.main() == check_arm.NOT_CHECKED
    assert "NOT CHECKED: arm64; apt-get -q: no such mirror" in capsys.readouterr().err
    assert list((tmp_path / "cache/arm64").iterdir()) == []


def test_what_the_emulated_mlx_compiles_is_for_arm64_and_apart_from_this_machine_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    tools, folder = tmp_path / "bin", tmp_path / "arm64"
    for made in (tools, folder / "root", folder / "site"):
        made.mkdir(parents=True)
    for name in ("aarch64-linux-gnu-g++", "g++"):
        (tools / name).write_text("")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    _, environment = check_arm.emulated(folder)
    found = shutil.which("g++", path=environment["PATH"])
    assert found is not None and Path(found).resolve() == tools / "aarch64-linux-gnu-g++"
    assert Path(environment["TMPDIR"]).is_relative_to(folder) and Path(environment["TMPDIR"]).is_dir()


def test_a_difference_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(arm_cases.build, "load_native", lambda say: None)

    def decoded(policy: str, evict: str, light: str, way: str, tokens: int) -> tuple[list[bytes], list[int]]:
        return [b"1" if (policy, way) == ("exact", "native") else b"2"], [tokens, 3, 2, light == "late"]

    monkeypatch.setattr(arm_cases, "decoded", decoded)
    monkeypatch.setattr(sys, "argv", ["arm_cases"])
    assert arm_cases.main() == 1
    told = "48 cases of 24 tokens, 12 differ; in the graph 1152 tokens, 144 misses, 96 swapped, 12 late"
    assert told in capsys.readouterr().out
