"""Symbols, load commands and bindings of 64-bit Mach-O files, as <mach-o/loader.h> and <mach-o/nlist.h> give them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

_MAGIC_64 = 0xFEEDFACF
_CPU_ARM64 = 0x0100000C
_LC_SYMTAB, _LC_BUILD_VERSION, _LC_CODE_SIGNATURE = 0x2, 0x32, 0x1D
_LC_LOAD_DYLIB, _LC_LOAD_WEAK_DYLIB, _LC_RPATH = 0xC, 0x80000018, 0x8000001C
_LC_DYLD_INFO = 0x80000022
_N_STAB, _N_TYPE, _N_PEXT, _N_EXT, _N_UNDF = 0xE0, 0x0E, 0x10, 0x01, 0x00
#: Kinds of files that can be loaded: a library and a bundle.
DYLIB, BUNDLE = 6, 8
#: In the place of a library's number: whatever is loaded is asked; one for all that are loaded, this file's own too.
DYNAMIC_LOOKUP, WEAK = -2, -3
MACOS = 1


@dataclass(frozen=True)
class Symbols:
    """External symbols of one file, by their linker's names (a leading underscore more than C's)."""

    defined: frozenset[str]
    undefined: frozenset[str]


@dataclass(frozen=True)
class Image:
    """What the loader is told of a library or bundle.

    Attributes:
        kind: "filetype" of the header.
        platform: What it is for; `MACOS`.
        least: The oldest release, as "14.0".
        loads: Libraries it needs, in the order in which symbols number them from 1.
        rpaths: Where those that begin with @rpath are looked for.
        wanted: By the number of a library, `DYNAMIC_LOOKUP` or `WEAK`, the symbols that the loader binds to it.
        exports: Symbols that others see.
        signature: Where the code's signature lies: offset and size.
    """

    kind: int = 0
    platform: int = 0
    least: str = ""
    loads: list[str] = field(default_factory=list)
    rpaths: list[str] = field(default_factory=list)
    wanted: dict[int, set[str]] = field(default_factory=dict)
    exports: frozenset[str] = frozenset()
    signature: tuple[int, int] | None = None


def read_symbols(data: bytes) -> Symbols:
    """Reads the symbol table of an arm64 object, dynamic library or bundle.

    Raises:
        ValueError: it is no such file.
    """
    found = list(_entries(data))
    return Symbols(
        frozenset(name for name, _, undefined in found if not undefined),
        frozenset(name for name, _, undefined in found if undefined),
    )


def read_image(data: bytes) -> Image:
    """Reads what the loader is told.

    Raises:
        ValueError: it is no Mach-O file for arm64.
    """
    loads, rpaths, platform, least, signature = [], [], 0, "", None
    wanted: dict[int, set[str]] = {}
    for command, at, size in _commands(data):
        if command in (_LC_LOAD_DYLIB, _LC_LOAD_WEAK_DYLIB, _LC_RPATH):
            (name_at,) = struct.unpack_from("<I", data, at + 8)
            name = data[at + name_at : at + size].split(b"\0")[0].decode()
            (rpaths if command == _LC_RPATH else loads).append(name)
        elif command == _LC_BUILD_VERSION:
            platform, release = struct.unpack_from("<2I", data, at + 8)
            least = f"{release >> 16}.{release >> 8 & 0xFF}"
        elif command == _LC_CODE_SIGNATURE:
            signature = struct.unpack_from("<2I", data, at + 8)
        elif command == _LC_DYLD_INFO:
            places = struct.unpack_from("<6I", data, at + 16)
            for offset, length, library in zip(places[::2], places[1::2], (0, WEAK, 0), strict=True):
                for number, name in _bindings(data[offset : offset + length], library):
                    wanted.setdefault(number, set()).add(name)
    exports = frozenset(name for name, kind, undefined in _entries(data) if not undefined and not kind & _N_PEXT)
    (file_kind,) = struct.unpack_from("<I", data, 12)
    return Image(file_kind, platform, least, loads, rpaths, wanted, exports, signature)


def _bindings(program: bytes, library: int) -> Iterator[tuple[int, str]]:
    """Yields library and symbol of each binding, from the opcodes that the loader follows."""
    name, at = "", 0
    while at < len(program):
        code, operand = program[at] & 0xF0, program[at] & 0x0F
        at += 1
        if code == 0x10:
            library = operand
        elif code == 0x30:
            library = operand - 16 if operand else 0
        elif code == 0x40:
            end = program.index(b"\0", at)
            name, at = program[at:end].decode(), end + 1
        elif code in (0x90, 0xB0):
            yield library, name
        elif code in (0x20, 0x60, 0x70, 0x80, 0xA0, 0xC0):
            for _ in range(2 if code == 0xC0 else 1):
                value, at = _leb128(program, at)
            library = value if code == 0x20 else library
            if code in (0xA0, 0xC0):
                yield library, name
        elif code not in (0x00, 0x50):
            raise ValueError(f"unknown binding opcode {code:#x}")


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """Returns a number and what comes after it; the sign of a signed one is of no interest here."""
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return value, at


def _commands(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields kind, offset and size of each load command."""
    if len(data) < 32 or struct.unpack_from("<2I", data) != (_MAGIC_64, _CPU_ARM64):
        raise ValueError("no 64-bit Mach-O file for arm64")
    at = 32
    for _ in range(struct.unpack_from("<I", data, 16)[0]):
        command, size = struct.unpack_from("<2I", data, at)
        yield command, at, size
        at += size


def _entries(data: bytes) -> Iterator[tuple[str, int, bool]]:
    """Yields name, kind and whether it is undefined of each external symbol."""
    for command, at, _ in _commands(data):
        if command != _LC_SYMTAB:
            continue
        table, count, strings, _ = struct.unpack_from("<4I", data, at + 8)
        for number in range(count):
            name_at, kind, _, _, value = struct.unpack_from("<IBBHQ", data, table + 16 * number)
            if kind & _N_STAB or not kind & _N_EXT:
                continue
            name = data[strings + name_at : data.index(b"\0", strings + name_at)].decode()
            yield name, kind, kind & _N_TYPE == _N_UNDF and not value
