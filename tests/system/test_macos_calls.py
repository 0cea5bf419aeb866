"""What macOS is asked, and what is made of its answers, as its documentation gives them; nothing here ran on a Mac."""

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moe_mlx.loading import pressure
from moe_mlx.store import durable
from moe_mlx.system import memory

F_FULLFSYNC = 51  # <sys/fcntl.h>


@pytest.mark.parametrize("refused", [False, True])
def test_a_drive_s_cache_is_emptied_or_at_least_synced(tmp_path: Path, refused: bool, monkeypatch: pytest.MonkeyPatch):
    asked: list[object] = []

    def control(fd: int, command: int) -> int:
        asked.append(command)
        if refused:
            raise OSError(errno.ENOTSUP, "no such call on this volume")
        return 0

    monkeypatch.setattr(durable, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fsync", lambda fd: asked.append("fsync"))
    with (tmp_path / "file").open("wb") as file:
        durable.Fs().flush_drive(file.fileno())
    assert asked == [F_FULLFSYNC, "fsync"] if refused else asked == [F_FULLFSYNC]


@pytest.mark.parametrize(("level", "expected"), [(1, False), (2, True), (4, True), (0, None)])
def test_pressure_is_the_kernel_s_level(level: int, expected: bool | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pressure, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(
        pressure,
        "read_sysctl",
        lambda name: struct.pack("<i", level) if name == "kern.memorystatus_vm_pressure_level" else b"",
    )
    assert pressure.under_pressure() is expected


def test_no_such_level_is_neither_pressure_nor_calm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pressure, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(pressure, "read_sysctl", lambda name: b"")
    assert pressure.under_pressure() is None


def test_memory_is_counted_in_the_kernel_s_pages(monkeypatch: pytest.MonkeyPatch):
    values = {
        "hw.memsize": struct.pack("<Q", 16 << 30),
        "hw.pagesize": struct.pack("<Q", 16384),
        "vm.page_free_count": struct.pack("<i", 1000),
        "vm.page_speculative_count": struct.pack("<i", 200),
        "vm.page_purgeable_count": struct.pack("<i", 30),
        "vm.swapusage": struct.pack("<QQQIi", 4 << 30, 3 << 30, 1 << 30, 16384, 1),  # struct xsw_usage
    }
    monkeypatch.setattr(memory, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(memory, "read_sysctl", lambda name: values.get(name, b""))
    found = memory.read_memory()
    assert (found.total, found.available) == (16 << 30, 1230 * 16384)
    assert found.swap_used == 1 << 30


def test_the_footprint_is_the_task_s(monkeypatch: pytest.MonkeyPatch):
    class System:
        """libSystem as `struct rusage_info_v0` describes it."""

        def proc_pid_rusage(self, pid: int, flavour: int, out: Any) -> int:
            assert (pid, flavour) == (os.getpid(), 0)
            ctypes.memmove(out, struct.pack("<16s10Q", b"uuid", *range(100, 110)), 96)
            return 0

    monkeypatch.setattr(memory, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: System())
    assert memory._footprint() == 107  # ri_phys_footprint, behind seven others
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert memory._footprint() > 0
