"""What keeps macOS's loader from a file, found in files made by hand: symbols, libraries, release, kind, signature."""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cross import loadable
from tests.cross.linking import LIBCXX, RPATH, is_cxx
from tests.cross.loadable import LIBMLX, LIBSYSTEM, Known

KNOWN = Known(
    frozenset({"_mlx"}), frozenset({"_malloc", "__Znwm"}), frozenset({"_PyDict_New"}), Path("/none/include/x")
)
START = "_PyInit__moe_mlx_native"


@dataclass
class Made:
    """A library for arm64, to be spoilt."""

    kind: int = 6
    release: tuple[int, int] = (1, 14 << 16)
    loads: list[str] = field(default_factory=lambda: [LIBSYSTEM, LIBCXX, LIBMLX])
    rpaths: list[str] = field(default_factory=lambda: [RPATH])
    bound: dict[int, list[str]] = field(
        default_factory=lambda: {1: ["_malloc"], 2: ["__Znwm"], 3: ["_mlx"], -2: ["_PyDict_New"]}
    )
    exports: list[str] = field(default_factory=lambda: [START])
    signed: bool = True
    flags: int = 0x2

    def data(self) -> bytes:
        """Returns the file: commands, bindings, symbols, and the digest of the page that they are."""
        program = b"".join(
            (bytes([0x10 | number]) if number > 0 else bytes([0x30 | number & 0xF]))
            + b"".join(b"\x40" + name.encode() + b"\0\x51\x72\x88\x01\x90" for name in names)
            for number, names in self.bound.items()
        )
        entries, strings = b"", b"\0"
        for name in self.exports:
            entries += struct.pack("<IBBHQ", len(strings), 0x0F, 1, 0, 0)
            strings += name.encode() + b"\0"
        commands = [struct.pack("<6I", 0x32, 24, *self.release, 0, 0)]
        commands += [self._named(0xC, name, 24) for name in self.loads]
        commands += [self._named(0x8000001C, name, 12) for name in self.rpaths]
        after = 32 + sum(map(len, commands)) + 48 + 24 + (16 if self.signed else 0)
        symbols = after + len(program)
        end = symbols + len(entries) + len(strings)
        commands.append(struct.pack("<12I", 0x80000022, 48, 0, 0, after, len(program), *[0] * 6))
        commands.append(struct.pack("<6I", 2, 24, symbols, len(self.exports), symbols + len(entries), len(strings)))
        if self.signed:
            commands.append(struct.pack("<4I", 0x1D, 16, end, 20 + 76))
        head = struct.pack("<8I", 0xFEEDFACF, 0x0100000C, 0, self.kind, len(commands), sum(map(len, commands)), 0, 0)
        body = head + b"".join(commands) + program + entries + strings
        assert len(body) == end < 1 << 12
        return body + self._signature(body) if self.signed else body

    def _signature(self, body: bytes) -> bytes:
        fields = (0xFADE0C02, 76, 0x20400, self.flags, 44, 0, 0, 1, len(body))
        directory = struct.pack(">9I4BI", *fields, 32, 2, 0, 12, 0) + hashlib.sha256(body).digest()
        return struct.pack(">5I", 0xFADE0CC0, 20 + len(directory), 1, 0, 20) + directory

    @staticmethod
    def _named(command: int, name: str, at: int) -> bytes:
        text = name.encode() + b"\0" * (8 - len(name) % 8)
        return struct.pack("<3I", command, at + len(text), at) + bytes(at - 12) + text


def faults(made: Made, own: frozenset[str] = frozenset()) -> list[str]:
    return loadable.faults_of(made.data(), "14", KNOWN, own)


def test_one_that_is_right_has_none():
    assert faults(Made()) == []
    assert faults(Made(kind=8)) == []  # a bundle


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda made: made.bound[3].append("_other"), f"looks for _other in {LIBMLX}"),
        (lambda made: made.bound[2].append("_hash_memory"), f"looks for _hash_memory in {LIBCXX}"),
        (lambda made: made.bound[-2].append("_malloc"), "looks for _malloc in Python"),
        (lambda made: made.bound[-2].append("_PyNone"), "looks for _PyNone in Python"),
        (lambda made: made.bound.update({-3: ["__ZTIours"]}), "looks for __ZTIours in anything that is loaded"),
        (lambda made: made.bound.update({9: ["_malloc"]}), "looks for _malloc in library 9"),
        (lambda made: setattr(made, "kind", 1), "its kind is 1"),
        (lambda made: setattr(made, "release", (1, 15 << 16)), "from 15.0 on, not for macOS 14.0"),
        (lambda made: setattr(made, "release", (2, 14 << 16)), "for platform 2"),
        (lambda made: made.loads.append("/opt/libomp.dylib"), "it loads "),
        (lambda made: made.rpaths.append("/usr/local/lib"), "it loads "),
        (lambda made: made.exports.clear(), "it does not export what Python starts it by"),
        (lambda made: setattr(made, "signed", False), "it is not signed"),
        (lambda made: setattr(made, "flags", 0), "its signature names a signer"),
    ],
)
def test_what_is_wrong_is_named(spoil: Callable[[Made], object], fault: str):
    made = Made()
    spoil(made)
    (found,) = faults(made)
    assert fault in found


def test_a_weak_symbol_of_its_own_is_enough():
    assert faults(Made(bound={-3: ["__ZTIours"]}), frozenset({"__ZTIours"})) == []


def test_a_byte_changed_after_signing_is_seen():
    data = bytearray(Made().data())
    data[40] ^= 1
    assert "its signature is of other bytes (page 0)" in loadable.faults_of(bytes(data), "14", KNOWN)
    assert "its signature is cut" in loadable.faults_of(Made().data()[:-9], "14", KNOWN)


def test_names_of_python_are_asked_of_an_interpreter():
    import sysconfig

    headers = Path(sysconfig.get_paths()["include"])
    there = Known(frozenset(), frozenset(), frozenset(), headers)
    made = Made(bound={-2: ["_PyDict_New", "_PyNoSuchThing"]})
    (found,) = loadable.faults_of(made.data(), "14", there)
    assert "_PyNoSuchThing" in found


def test_symbols_of_c_s_plus_plus_library_are_told_by_their_names():
    assert all(map(is_cxx, ["__ZNSt3__15mutex4lockEv", "__ZTVSt9exception", "___cxa_throw", "__Znwm", "__ZTIi"]))
    assert not any(map(is_cxx, ["__ZN3mlx4core5arrayD1Ev", "__ZTIN3mlx4core9PrimitiveE", "_malloc", "_PyDict_New"]))
