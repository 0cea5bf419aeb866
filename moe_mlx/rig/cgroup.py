"""Control groups of version 1: one for memory, one for block devices, made for a command and removed after it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from moe_mlx.errors import UsageError

ROOT = Path("/sys/fs/cgroup")
#: Enters the groups and becomes the command, so that every byte it ever takes is counted.
_ENTER = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ > "$1" || exit 125; shift; n=$((n-1)); done; exec "$@"'


def why_not(root: Path = ROOT) -> str | None:
    """Returns why the rig cannot run here, or None."""
    if not sys.platform.startswith("linux"):
        return "it needs Linux: its limits are control groups"
    for controller in ("memory", "blkio"):
        if not (root / controller / "cgroup.procs").exists():
            return f"it needs control groups of version 1, and {root / controller} is none"
    if not (root / "blkio" / "blkio.throttle.read_bps_device").exists():
        return "this kernel cannot limit block devices (blkio.throttle)"
    if os.geteuid() != 0:
        return "it needs root, to make control groups"
    return None


def device_of(path: Path) -> str:
    """Returns "major:minor" of the disk that holds a path; a partition's whole disk, which is what can be limited.

    Raises:
        UsageError: nothing there, or a file system without a block device of its own.
    """
    try:
        number = path.stat().st_dev
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    found = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not found.exists():
        raise UsageError(f"{path} is on no block device (an overlay or memory file system), so reads cannot be limited")
    real = found.resolve()
    if (real / "partition").exists():
        real = real.parent
    return (real / "dev").read_text().strip()


class Limits:
    """The two groups of one run. A context: they are removed at its end, and what still runs in them is ended.

    Args:
        memory: Bytes that the command may use, page cache included; None: no limit. It may not swap.
        read_rate: Bytes a second that it may read from `device`; None: no limit.
        device: "major:minor"; counted even without a limit.
        root: Where control groups are mounted.
    """

    def __init__(self, memory: int | None, read_rate: int | None, device: str | None, root: Path = ROOT) -> None:
        self.memory, self.read_rate, self.device = memory, read_rate, device
        name = f"moe-mlx-rig-{os.getpid()}"
        self.memory_group = _parent(root, "memory") / name
        self.io_group = _parent(root, "blkio") / name

    def __enter__(self) -> Limits:
        try:
            self.memory_group.mkdir()
            self.io_group.mkdir()
            if self.memory is not None:
                self._write(self.memory_group / "memory.limit_in_bytes", self.memory)
                self._write(self.memory_group / "memory.swappiness", 0)
                if (both := self.memory_group / "memory.memsw.limit_in_bytes").exists():
                    self._write(both, self.memory)
            if self.read_rate is not None:
                self._write(self.io_group / "blkio.throttle.read_bps_device", f"{self.device} {self.read_rate}")
        except OSError as error:
            self.remove()
            raise UsageError(f"the limits cannot be set: {error.filename}: {error.strerror}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @staticmethod
    def _write(path: Path, value: int | str) -> None:
        try:
            path.write_text(f"{value}\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    @property
    def doors(self) -> list[Path]:
        """Files that a process writes its id into to enter."""
        return [self.memory_group / "cgroup.procs", self.io_group / "cgroup.procs"]

    def entered_by(self, command: Sequence[str]) -> list[str]:
        """Returns a command as words that enter the groups first."""
        return ["/bin/sh", "-c", _ENTER, "rig", str(len(self.doors)), *map(str, self.doors), *command]

    def number(self, name: str) -> int:
        """Returns a counter of the memory group."""
        return int((self.memory_group / name).read_text())

    def anonymous(self) -> int:
        """Returns bytes of the group that are no page cache."""
        for line in (self.memory_group / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == "total_rss":
                return int(value)
        return 0

    def read_bytes(self) -> int:
        """Returns the bytes that the command's reads got from the device."""
        total = 0
        for line in (self.io_group / "blkio.throttle.io_service_bytes").read_text().splitlines():
            words = line.split()
            if len(words) == 3 and words[1] == "Read" and words[0] == self.device:
                total += int(words[2])
        return total

    def remove(self) -> None:
        """Ends what still runs in the groups and removes them."""
        for group in (self.memory_group, self.io_group):
            for _ in range(50):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                    for line in (group / "cgroup.procs").read_text().splitlines():
                        os.kill(int(line), signal.SIGKILL)
                try:
                    group.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.1)
                else:
                    break


def _parent(root: Path, controller: str) -> Path:
    """Returns this process's own group, so that limits around it hold for the command too; else the top one."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            own = root / controller / place.lstrip("/")
            if controller in controllers.split(",") and (own / "cgroup.procs").exists():
                return own
    return root / controller
