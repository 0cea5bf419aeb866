"""Symbols of 64-bit Mach-O files, as <mach-o/loader.h> and <mach-o/nlist.h> lay them out."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_MAGIC_64, _LC_SYMTAB = 0xFEEDFACF, 0x2
_CPU_ARM64 = 0x0100000C
_N_STAB, _N_TYPE, _N_EXT, _N_UNDF = 0xE0, 0x0E, 0x01, 0x00


@dataclass(frozen=True)
class Symbols:
    """External symbols of one file, by their linker's names (a leading underscore more than C's)."""

    defined: frozenset[str]
    undefined: frozenset[str]


def read_symbols(data: bytes) -> Symbols:
    """Reads the symbol table of an arm64 object, dynamic library or bundle.

    Raises:
        ValueError: it is no such file.
    """
    magic, cpu, _, _, commands, *_ = struct.unpack_from("<8I", data)
    if (magic, cpu) != (_MAGIC_64, _CPU_ARM64):
        raise ValueError("no 64-bit Mach-O file for arm64")
    at, defined, undefined = 32, set(), set()
    for _ in range(commands):
        command, size = struct.unpack_from("<2I", data, at)
        if command == _LC_SYMTAB:
            table, count, strings, _ = struct.unpack_from("<4I", data, at + 8)
            for number in range(count):
                name_at, kind, _, _, value = struct.unpack_from("<IBBHQ", data, table + 16 * number)
                if kind & _N_STAB or not kind & _N_EXT:
                    continue
                end = data.index(b"\0", strings + name_at)
                name = data[strings + name_at : end].decode()
                common = kind & _N_TYPE == _N_UNDF and value
                (undefined if kind & _N_TYPE == _N_UNDF and not common else defined).add(name)
        at += size
    return Symbols(frozenset(defined), frozenset(undefined))
