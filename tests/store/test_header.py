"""One handcrafted safetensors file per way of being wrong, and the kind of error it gives."""

from __future__ import annotations

import os
from pathlib import Path

import mlx.core as mx
import pytest

from moe_mlx.errors import StoreError
from moe_mlx.store import header
from tests.store.headers import BAD


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
