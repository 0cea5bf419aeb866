"""Cached pages are dropped on every system: by advice on Linux, by an invalidated mapping where there is no advice."""

import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.store import durable, files

PAGE = mmap.PAGESIZE


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """A system without advice, as macOS; (offset, bytes, flags) of each range that it was told to invalidate."""
    ranges: list[tuple[int, int, int]] = []
    mapped: dict[int, int] = {}

    class System:
        """The real calls, noted."""

        def mmap(self, *arguments: Any) -> int:
            address = real.mmap(*arguments)
            mapped[address] = arguments[5]
            return int(address)

        def msync(self, address: int, nbytes: int, flags: int) -> int:
            ranges.append((mapped[address], nbytes, flags))
            return int(real.msync(address, nbytes, flags))

        def munmap(self, address: int, nbytes: int) -> int:
            del mapped[address]
            return int(real.munmap(address, nbytes))

    real = files.LIBC
    monkeypatch.delattr(os, "posix_fadvise")
    monkeypatch.setattr(files, "LIBC", System())
    yield ranges
    assert not mapped


def test_without_advice_a_mapping_is_invalidated(tmp_path: Path, dropped: list[tuple[int, int, int]]):
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * PAGE + 5))
    fd = os.open(path, os.O_RDONLY)
    files.drop_pages(fd)
    files.drop_pages(fd, PAGE + 7, PAGE)
    files.drop_pages(fd, 3 * PAGE, 99)
    durable.Fs().forget(fd)
    os.close(fd)
    whole = (0, 3 * PAGE + 5, files.MS_INVALIDATE)
    assert dropped == [whole, (PAGE, 2 * PAGE, files.MS_INVALIDATE), (3 * PAGE, 5, files.MS_INVALIDATE), whole]


def test_an_empty_file_has_no_pages(tmp_path: Path, dropped: list[tuple[int, int, int]]):
    (tmp_path / "file").write_bytes(b"")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    files.drop_pages(fd)
    os.close(fd)
    assert dropped == []
