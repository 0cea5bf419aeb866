"""What memory there is: of the machine, of this process's control group, of the process itself; in bytes."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT = 1 << 60
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Memory as it stands.

    Attributes:
        total: What this process may ever use: the machine's memory, or its control group's limit where that is lower.
        available: What it could take now without swapping.
        footprint: Resident set of this process; on macOS its footprint, as Activity Monitor shows it.
        swap_used: Swap in use on the machine.
    """

    total: int
    available: int
    footprint: int
    swap_used: int


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cgroup_folders() -> tuple[list[Path], list[Path]]:
    """Returns the folders of this process's memory control group and its ancestors: version 1, version 2."""
    first: list[Path] = []
    second: list[Path] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return first, second
    for line in lines:
        number, controllers, place = line.split(":", 2)
        inside = Path(place.lstrip("/"))
        for folder in (inside, *inside.parents):
            if "memory" in controllers.split(","):
                first.append(_CGROUP / "memory" / folder)
            elif number == "0":
                second += [_CGROUP / folder, _CGROUP / "unified" / folder]
    return first, second


def cgroup_room() -> tuple[int, int] | None:
    """Returns (limit, room left) of the tightest memory control group around this process, or None.

    Page cache that the group could give back counts as room.
    """
    first, second = _cgroup_folders()
    rooms: list[tuple[int, int]] = []
    for folder, limit_name, usage_name, cache_key in (
        *((folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache") for folder in first),
        *((folder, "memory.max", "memory.current", "file") for folder in second),
    ):
        limit, usage = _number(folder / limit_name), _number(folder / usage_name)
        if limit is None or usage is None or limit >= _NO_LIMIT:
            continue
        cache = 0
        try:
            stat = dict(line.split(None, 1) for line in (folder / "memory.stat").read_text().splitlines())
            cache = int(stat.get(cache_key, 0))
        except (OSError, ValueError):
            pass
        rooms.append((limit, max(0, limit - usage + cache)))
    return min(rooms, key=lambda room: room[1], default=None)


def _meminfo() -> dict[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if ":" in line}


def _footprint() -> int:
    if sys.platform == "darwin" and (footprint := _footprint_of_task()):
        return footprint
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def read_memory() -> MemoryReading:
    """Reads the machine. On Linux from /proc and the control group, on macOS from MLX's device and the kernel."""
    if sys.platform == "darwin":
        return _read_darwin()
    info = _meminfo()
    total, available = info.get("MemTotal", 0), info.get("MemAvailable", 0)
    if (room := cgroup_room()) is not None:
        total, available = min(total, room[0]), min(available, room[1])
    return MemoryReading(total, available, _footprint(), info.get("SwapTotal", 0) - info.get("SwapFree", 0))


def read_sysctl(name: str) -> bytes:
    """Returns a macOS kernel value as raw bytes, empty where there is none."""
    import ctypes

    libc = ctypes.CDLL(None)
    size = ctypes.c_size_t(256)
    buffer = ctypes.create_string_buffer(256)
    if libc.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, 0) != 0:
        return b""
    return buffer.raw[: size.value]


def _footprint_of_task() -> int:
    """Returns what macOS counts as this process's memory, Metal's buffers included; 0 where it does not say.

    `ri_phys_footprint`, the eighth count behind the 16 bytes of a UUID in `struct rusage_info_v0` (sys/resource.h).
    """
    import ctypes

    counts = (ctypes.c_uint64 * 12)()
    try:
        refused = ctypes.CDLL(None).proc_pid_rusage(os.getpid(), 0, ctypes.byref(counts))
    except AttributeError:
        return 0
    return 0 if refused else int(counts[9])


def _read_darwin() -> MemoryReading:
    total = int.from_bytes(read_sysctl("hw.memsize"), "little")
    page = int.from_bytes(read_sysctl("hw.pagesize")[:8], "little") or 16384
    free = sum(
        int.from_bytes(read_sysctl(name)[:4], "little") * page
        for name in ("vm.page_free_count", "vm.page_speculative_count", "vm.page_purgeable_count")
    )
    # struct xsw_usage: total, available, used, each 64 bits.
    swap = int.from_bytes(read_sysctl("vm.swapusage")[16:24], "little")
    return MemoryReading(total, free, _footprint(), swap)


def recommended_bytes() -> int:
    """Returns the memory the system recommends for MLX: Metal's working-set size, else what is available now."""
    from moe_mlx.system.metal import working_set_bytes

    limit = working_set_bytes()
    return read_memory().available if limit is None else limit


def room_beside(held: int) -> int:
    """Returns the memory MLX may have in all, where `held` bytes are its own already.

    Metal's working set is of the whole process, so nothing is added to it; what is available now is without `held`.
    """
    from moe_mlx.system.metal import working_set_bytes

    limit = working_set_bytes()
    return held + recommended_bytes() if limit is None else limit
