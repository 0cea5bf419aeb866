"""What is made of Metal's answers; Metal itself is faked, for there is none here."""

import pytest

from moe_mlx.system import memory, metal
from tests.metal_fakes import FakeMetal


def test_the_gpu_is_asked_by_name(monkeypatch: pytest.MonkeyPatch):
    assert metal.metal_info() == {}
    assert metal.working_set_bytes() is metal.comfortable_bytes() is None
    FakeMetal(17_179_869_184, 11_453_251_584).install(monkeypatch)
    assert metal.working_set_bytes() == memory.recommended_bytes() == 11_453_251_584


def test_the_working_set_is_the_whole_process_s(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "read_memory", lambda: memory.MemoryReading(16 << 30, 5 << 30, 0, 0))
    assert memory.room_beside(2 << 30) == 7 << 30
    FakeMetal(16 << 30, 11 << 30).install(monkeypatch)
    assert memory.room_beside(2 << 30) == 11 << 30


@pytest.mark.parametrize(("memory_size", "left"), [(16 * 10**9, 4 * 10**9), (64 * 10**9, 12_800_000_000)])
def test_macos_keeps_its_room(memory_size: int, left: int, monkeypatch: pytest.MonkeyPatch):
    FakeMetal(memory_size, memory_size).install(monkeypatch)
    assert metal.comfortable_bytes() == memory_size - left


@pytest.mark.parametrize(("value", "on"), [("1", True), ("0", False), ("", False), (None, False)])
def test_fast_synch(value: str | None, on: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(metal.FAST_SYNCH, raising=False)
    if value is not None:
        monkeypatch.setenv(metal.FAST_SYNCH, value)
    assert metal.fast_synch() is on


def test_on_metal_a_stall_ends_before_the_watchdog(monkeypatch: pytest.MonkeyPatch):
    assert metal.stall_limit(60) == 60
    FakeMetal(16 << 30, 11 << 30).install(monkeypatch)
    assert 2 <= metal.stall_limit(60) <= 3
    assert metal.stall_limit(0.25) == 0.25
