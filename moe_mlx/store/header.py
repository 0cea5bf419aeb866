"""The safetensors header: parsed, checked and written by one set of rules, one error per way of being wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_mlx.errors import StoreCorruptError
from moe_mlx.store.spec import DTYPE_NBYTES, tensor_nbytes

#: A length above it is damage or an attack on memory: parsed JSON takes up to thirty times its text. The largest honest
#: header known, 90,000 tensors in one file, is 10 MB; the safetensors library stops at 100 MB.
MAX_HEADER_NBYTES = 25_000_000
#: More axes than any array library takes; keeps the product of an absurd shape cheap.
MAX_AXES = 32
#: Sizes and offsets stay far inside a signed 64-bit file offset.
MAX_NBYTES = 1 << 62
LENGTH_NBYTES = 8


class HeaderError(StoreCorruptError):
    """A header that contradicts itself or its file.

    Attributes:
        kind: One word per failure, such as `overlap`; tests and callers tell failures apart by it.
    """

    def __init__(self, kind: str, where: Path | str, what: str) -> None:
        self.kind = kind
        super().__init__(f"{where}: {what}. The file is damaged or no safetensors file; fetch or convert it again.")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a safetensors file; `begin` and `end` count from the start of the data, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: `entries` by name in the order of their data, which starts at `data_offset` in the file."""

    entries: Mapping[str, Entry]
    data_offset: int
    data_nbytes: int
    metadata: Mapping[str, str] = field(default_factory=dict)


def validate(entries: Iterable[Entry], data_nbytes: int, where: Path | str) -> dict[str, Entry]:
    """Checks that tensors tile the data exactly: no overlap, no gap, no byte left over.

    Args:
        entries: Tensors in any order.
        data_nbytes: Bytes of data that the file holds after its header.
        where: File named in errors.

    Returns:
        The entries by name, ordered by their place in the file.

    Raises:
        HeaderError: On the first rule that is broken.
    """
    ordered = sorted(entries, key=lambda e: (e.begin, e.end))
    end, before = 0, "the header"
    checked: dict[str, Entry] = {}
    for e in ordered:
        if e.name in checked:
            raise HeaderError("duplicate_key", where, f"tensor {e.name!r} is described twice")
        if e.dtype not in DTYPE_NBYTES:
            raise HeaderError("bad_dtype", where, f"tensor {e.name!r} has the unknown dtype {e.dtype!r}")
        if len(e.shape) > MAX_AXES or any(n < 0 for n in e.shape):
            raise HeaderError("bad_shape", where, f"tensor {e.name!r} has the shape {_short(e.shape)}")
        if any(n > MAX_NBYTES for n in e.shape):
            raise HeaderError("overflow", where, f"tensor {e.name!r} claims an axis longer than a file can hold")
        nbytes = tensor_nbytes(e.dtype, e.shape)
        if nbytes > MAX_NBYTES or e.end > MAX_NBYTES:
            raise HeaderError("overflow", where, f"tensor {e.name!r} claims more bytes than a file can hold")
        if e.begin < 0 or e.end < e.begin:
            raise HeaderError("bad_offsets", where, f"tensor {e.name!r} lies at [{e.begin}, {e.end}]")
        if e.nbytes != nbytes:
            raise HeaderError(
                "size_mismatch",
                where,
                f"tensor {e.name!r} ({e.dtype} {list(e.shape)}) needs {nbytes} bytes, has {e.nbytes}",
            )
        if e.begin < end:
            raise HeaderError("overlap", where, f"tensor {e.name!r} overlaps {before!r}")
        if e.begin > end:
            raise HeaderError(
                "gap", where, f"{e.begin - end} bytes between {before!r} and {e.name!r} belong to no tensor"
            )
        end, before = e.end, e.name
        checked[e.name] = e
    if end > data_nbytes:
        raise HeaderError("truncated", where, f"tensor {before!r} ends {end - data_nbytes} bytes beyond the file")
    if end < data_nbytes:
        raise HeaderError("trailing", where, f"{data_nbytes - end} bytes follow the last tensor, {before!r}")
    return checked


def _short(shape: tuple[int, ...]) -> str:
    return str(list(shape)) if len(shape) <= 8 else f"of {len(shape)} axes"


def parse(text: bytes, file_nbytes: int, where: Path | str) -> Header:
    """Parses the JSON part of a header.

    Args:
        text: The JSON, without the eight bytes of length before it.
        file_nbytes: Size of the whole file.
        where: File named in errors.

    Raises:
        HeaderError: With the kind of the first failure.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            for name, _ in pairs:
                if name not in found:
                    raise HeaderError("duplicate_key", where, f"{name!r} is described twice")
                del found[name]
        return found

    try:
        described = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise HeaderError("not_utf8", where, f"the header is not UTF-8 ({error.reason})") from None
    except (ValueError, RecursionError) as error:
        raise HeaderError("bad_json", where, f"the header is not JSON ({error})") from None
    if not isinstance(described, dict):
        raise HeaderError("not_object", where, "the header is no JSON object")
    metadata = described.pop("__metadata__", None)
    if metadata is None:  # mx.save_safetensors writes null
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise HeaderError("bad_metadata", where, "__metadata__ does not map names to strings")
    data_offset = LENGTH_NBYTES + len(text)
    entries = (_entry(name, value, where) for name, value in described.items())
    return Header(validate(entries, file_nbytes - data_offset, where), data_offset, file_nbytes - data_offset, metadata)


def _entry(name: str, value: object, where: Path | str) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError("bad_entry", where, f"tensor {name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str):
        raise HeaderError("bad_dtype", where, f"tensor {name!r} has the dtype {dtype!r}")
    if not isinstance(shape, list) or not all(type(n) is int for n in shape):
        raise HeaderError("bad_shape", where, f"tensor {name!r} has a shape that is no list of whole numbers")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise HeaderError("bad_offsets", where, f"tensor {name!r} has data_offsets that are no pair of whole numbers")
    return Entry(name, dtype, tuple(shape), offsets[0], offsets[1])


def read(fd: int, where: Path | str) -> Header:
    """Reads and checks the header of the safetensors file open at `fd`; `where` names it in errors."""
    file_nbytes = os.fstat(fd).st_size
    prefix = os.pread(fd, LENGTH_NBYTES, 0)
    if len(prefix) < LENGTH_NBYTES:
        raise HeaderError("header_too_short", where, f"{file_nbytes} bytes are too few for a safetensors file")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_NBYTES:
        raise HeaderError("header_too_large", where, f"a header of {length} bytes is beyond {MAX_HEADER_NBYTES}")
    if LENGTH_NBYTES + length > file_nbytes:
        raise HeaderError("header_truncated", where, f"the header says {length} bytes, the file has {file_nbytes}")
    text = b""
    while len(text) < length:
        chunk = os.pread(fd, length - len(text), LENGTH_NBYTES + len(text))
        if not chunk:
            raise HeaderError("header_truncated", where, f"the header ends after {len(text)} of {length} bytes")
        text += chunk
    return parse(text, file_nbytes, where)


def encode(entries: Iterable[Entry], metadata: Mapping[str, str], where: Path | str, alignment: int = 8) -> bytes:
    """Writes a header, its eight bytes of length included, padded with spaces so that data starts at `alignment`.

    Raises:
        HeaderError: When the entries do not tile the data: what we write obeys what we read.
    """
    given = list(entries)
    checked = validate(given, max((e.end for e in given), default=0), where)
    described: dict[str, Any] = {"__metadata__": dict(metadata)}
    for e in checked.values():
        described[e.name] = {"dtype": e.dtype, "shape": list(e.shape), "data_offsets": [e.begin, e.end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_NBYTES + len(text)) % alignment)
    if len(text) > MAX_HEADER_NBYTES:
        raise HeaderError("header_too_large", where, f"a header of {len(text)} bytes is beyond {MAX_HEADER_NBYTES}")
    return len(text).to_bytes(LENGTH_NBYTES, "little") + text
