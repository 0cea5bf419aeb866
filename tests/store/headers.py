"""Safetensors headers, each bad in its own way."""

from __future__ import annotations

import json
from typing import Any


def file_of(text: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: str = "U8", shape: object = (4,), offsets: object = (0, 4), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def described(table: object, data: bytes = b"1234") -> bytes:
    return file_of(json.dumps(table).encode(), data)


HUGE = 1 << 63

BAD: dict[str, tuple[str, bytes]] = {
    "empty file": ("header_too_short", b""),
    "seven bytes": ("header_too_short", b"1234567"),
    "length beyond the limit": ("header_too_large", file_of(b"{}", length=100_000_001)),
    "length of all ones": ("header_too_large", file_of(b"{}", length=(1 << 64) - 1)),
    "length beyond the file": ("header_truncated", file_of(b"{}", length=200)),
    "no UTF-8": ("not_utf8", file_of(b'{"\xff": 1}')),
    "no JSON": ("bad_json", file_of(b'{"a": ')),
    "nested too deep": ("bad_json", file_of(b"[" * 200_000)),
    "a number of 5,000 digits": ("bad_json", file_of(b'{"a": ' + b"9" * 5000 + b"}")),
    "a list": ("not_object", file_of(b"[]")),
    "metadata with numbers": ("bad_metadata", described({"__metadata__": {"a": 1}}, b"")),
    "metadata that is a list": ("bad_metadata", described({"__metadata__": []}, b"")),
    "the same name twice": (
        "duplicate_key",
        file_of(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), b"1234"),
    ),
    "the same field twice": (
        "duplicate_key",
        file_of(b'{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', b"1234"),
    ),
    "a tensor that is a number": ("bad_entry", described({"a": 4})),
    "a field missing": ("bad_entry", described({"a": {"dtype": "U8", "shape": [4]}})),
    "a field too many": ("bad_entry", described({"a": entry(strides=[1])})),
    "an unknown dtype": ("bad_dtype", described({"a": entry("Q4_K")})),
    "a dtype that is a number": ("bad_dtype", described({"a": entry(4)})),  # type: ignore[arg-type]
    "a negative axis": ("bad_shape", described({"a": entry(shape=[-4])})),
    "two negative axes": ("bad_shape", described({"a": entry(shape=[-2, -2])})),
    "a fractional axis": ("bad_shape", described({"a": entry(shape=[4.0])})),
    "a boolean axis": ("bad_shape", described({"a": entry(shape=[True, 4])})),
    "a shape that is a number": ("bad_shape", described({"a": entry(shape=4)})),
    "a thousand axes": ("bad_shape", described({"a": entry(shape=[1] * 1000)})),
    "an absurd axis": ("overflow", described({"a": entry(shape=[HUGE])})),
    "axes whose product is absurd": ("overflow", described({"a": entry(shape=[1 << 40, 1 << 40])})),
    "absurd offsets": ("overflow", described({"a": entry(offsets=[HUGE, HUGE + 4])})),
    "offsets backwards": ("bad_offsets", described({"a": entry(offsets=[4, 0])})),
    "offsets before the data": ("bad_offsets", described({"a": entry(offsets=[-4, 0])})),
    "three offsets": ("bad_offsets", described({"a": entry(offsets=[0, 2, 4])})),
    "offsets that are text": ("bad_offsets", described({"a": entry(offsets=["0", "4"])})),
    "more bytes than the shape": ("size_mismatch", described({"a": entry(shape=[3])})),
    "fewer bytes than the shape": ("size_mismatch", described({"a": entry("F32")})),
    "overlap": ("overlap", described({"a": entry(), "b": entry(offsets=[2, 6])}, b"123456")),
    "the same bytes twice": ("overlap", described({"a": entry(), "b": entry()})),
    "a gap in front": ("gap", described({"a": entry(offsets=[2, 6])}, b"123456")),
    "a gap between": ("gap", described({"a": entry(), "b": entry(offsets=[6, 10])}, b"1234567890")),
    "data beyond the file": ("truncated", described({"a": entry()}, b"123")),
    "bytes left over": ("trailing", described({"a": entry()}, b"12345")),
    "data without a tensor": ("trailing", described({}, b"1")),
}
