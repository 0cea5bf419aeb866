"""One handcrafted safetensors file per way of being wrong, and the kind of error it gives."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from moe_mlx.errors import StoreError
from moe_mlx.store import header


def entry(dtype: str = "U8", shape: object = (4,), offsets: object = (0, 4), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def file_of(text: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


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


@pytest.mark.parametrize("case", BAD)
def test_each_failure_has_its_own_error(case: str, tmp_path: Path) -> None:
    kind, contents = BAD[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(contents)
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(header.HeaderError) as caught:
            header.read(fd, path)
    finally:
        os.close(fd)
    assert caught.value.kind == kind
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, StoreError)
    assert caught.value.exit_code == 3


def test_what_is_written_obeys_what_is_read() -> None:
    with pytest.raises(header.HeaderError, match="overlap"):
        header.encode([header.Entry("a", "U8", (4,), 0, 4), header.Entry("b", "U8", (4,), 2, 6)], {}, "here")


@pytest.mark.parametrize("alignment", [8, 64, 16_384])
def test_data_starts_where_it_should_and_mlx_reads_it(alignment: int, tmp_path: Path) -> None:
    entries = [
        header.Entry("empty", "F32", (0, 3), 0, 0),
        header.Entry("scalar", "F32", (), 0, 4),
        header.Entry("bytes", "U8", (2, 3), 4, 10),
    ]
    text = header.encode(entries, {"format": "mlx"}, "here", alignment)
    assert len(text) % alignment == 0
    path = tmp_path / "good.safetensors"
    path.write_bytes(text + b"\0\0\x80\x3f" + bytes(range(6)))
    fd = os.open(path, os.O_RDONLY)
    found = header.read(fd, path)
    os.close(fd)
    assert found.data_offset == len(text)
    assert list(found.entries.values()) == entries
    assert found.metadata == {"format": "mlx"}
    loaded = mx.load(str(path))
    assert loaded["scalar"].item() == 1.0
    assert loaded["bytes"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_metadata_null_as_mlx_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    mx.save_safetensors(str(path), {"a": mx.arange(4)})
    fd = os.open(path, os.O_RDONLY)
    assert set(header.read(fd, path).entries) == {"a"}
    os.close(fd)
