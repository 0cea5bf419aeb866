"""What `make check-mac` finds in files made by hand: a symbol that MLX does not export, another ABI, no package."""

import struct
import sys
from pathlib import Path

import pytest

from tests.cross import check_mac, wheels
from tests.cross.macho import read_symbols
from tests.cross.pythons import headers_of

TAG = b"nanobind_system_libcpp_abi1_a1_v22\0"
NEEDED = "__ZN3mlx4core5arrayD1Ev"


def made(defined: list[str], undefined: list[str], more: bytes = b"") -> bytes:
    """A Mach-O object for arm64 with these external symbols, and one debugging entry."""
    names, entries = b"\0", b""
    for name, kind in [*((n, 0x0F) for n in defined), *((n, 0x01) for n in undefined), ("source.cpp", 0x64)]:
        entries += struct.pack("<IBBHQ", len(names), kind, 0, 0, 0)
        names += name.encode() + b"\0"
    count, at = len(entries) // 16, 32 + 24
    head = struct.pack("<8I", 0xFEEDFACF, 0x0100000C, 0, 1, 1, 24, 0, 0)
    return head + struct.pack("<6I", 2, 24, at, count, at + len(entries), len(names)) + entries + names + more


def test_symbols_are_told_apart():
    found = read_symbols(made(["_ours"], [NEEDED, "_malloc"]))
    assert (found.defined, found.undefined) == ({"_ours"}, {NEEDED, "_malloc"})
    with pytest.raises(ValueError, match="no 64-bit"):
        read_symbols(struct.pack("<8I", 0xFEEDFACF, 0x01000007, *[0] * 6))


def test_what_is_wrong_is_named(tmp_path: Path):
    path = tmp_path / "unit.o"
    path.write_bytes(made(["_PyInit"], [NEEDED], TAG))
    core = b"\0" + TAG
    assert check_mac.faults_of([path], frozenset({NEEDED}), core) == []
    assert check_mac.faults_of([path], frozenset(), core) == [f"libmlx.dylib does not export {NEEDED}"]
    assert "ABI" in check_mac.faults_of([path], frozenset({NEEDED}), TAG.replace(b"v22", b"v23"))[0]
    path.write_bytes(made([NEEDED], [NEEDED], TAG))
    assert check_mac.faults_of([path], frozenset(), core) == ["nothing of MLX's is used, which cannot be"]


def test_a_package_that_cannot_be_had_is_no_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(wheels.VARIABLE, str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(sys, "argv", ["check_mac", "--macos", "14"])
    assert check_mac.main() == check_mac.NOT_CHECKED
    assert "NOT CHECKED: macOS; a package cannot be had: mlx-metal" in capsys.readouterr().err


def test_headers_that_serve_one_system_alone_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Debian's pyconfig.h includes that of the machine it is compiled on, and nothing for macOS."""
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    for home, config in (("a-debian", "#error unknown multiarch location for pyconfig.h\n"), ("b-own", "")):
        folder = tmp_path / "versions" / home / "include/python3.12"
        folder.mkdir(parents=True)
        (folder / "Python.h").touch()
        (folder / "patchlevel.h").write_text('#define PY_VERSION "3.12.1"\n')
        (folder / "pyconfig.h").write_text(config)
    assert headers_of("3.12") == tmp_path / "versions/b-own/include/python3.12"
