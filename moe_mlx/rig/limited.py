"""Runs a command under a memory limit and a read limit, and tells what it took."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.rig.cgroup import Limits
from moe_mlx.store.files import drop_pages, open_regular
from moe_mlx.system.sizes import show_bytes

_SAMPLE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class RigReport:
    """What a command took; sizes in bytes.

    Attributes:
        exit_code: As a shell would give it: 128 and the signal's number where one ended it.
        seconds: Wall time.
        memory_limit: None: none.
        read_limit: Bytes a second.
        device: "major:minor".
        peak_charged: Most that was charged to the group, its page cache included.
        peak_anonymous: Most that was no page cache, sampled every 20 ms.
        peak_process: Largest resident set of a single process, mapped files included, by the kernel's own count.
        swapped: Bytes of swap at most (0: swap is off for it).
        failcnt: How often the kernel counted the limit as hit; some kernels no longer count.
        read: Bytes read from the device.
    """

    exit_code: int
    seconds: float
    memory_limit: int | None
    read_limit: int | None
    device: str | None
    peak_charged: int
    peak_anonymous: int
    peak_process: int
    swapped: int
    failcnt: int
    read: int

    def as_json(self) -> dict[str, Any]:
        """Returns it as a dict."""
        return asdict(self)

    def lines(self) -> str:
        """Returns it for people."""
        limit = "none" if self.memory_limit is None else show_bytes(self.memory_limit)
        rate = "none" if self.read_limit is None else f"{show_bytes(self.read_limit)}/s"
        return "\n".join(
            [
                f"exit code {self.exit_code} after {self.seconds:.1f} s",
                f"memory limit {limit}: peak {show_bytes(self.peak_charged)} with page cache, "
                f"{show_bytes(self.peak_anonymous)} without; largest process {show_bytes(self.peak_process)}; "
                f"swap {show_bytes(self.swapped)}",
                f"read limit {rate} on device {self.device}: {show_bytes(self.read)} read, "
                f"{show_bytes(self.read / max(self.seconds, 1e-9))}/s on average",
            ]
        )


def store_in(command: Sequence[str]) -> Path:
    """Returns the first word of a command that names a folder (the store, as a rule), else the working folder."""
    for word in command[1:]:
        if word and Path(word).expanduser().is_dir():
            return Path(word).expanduser()
    return Path.cwd()


def drop_cached(folder: Path) -> None:
    """Asks the system to forget every file below a folder: pages that are cached already are charged to nobody here."""
    for path in folder.rglob("*"):
        if path.is_file():
            with contextlib.suppress(OSError):
                fd = open_regular(path)
                drop_pages(fd)
                os.close(fd)


def run_limited(
    command: Sequence[str], limits: Limits, *, stdout: Any = None, environment: dict[str, str] | None = None
) -> RigReport:
    """Runs a command inside limits that are in force.

    Args:
        command: Words, not a shell's line.
        limits: Entered.
        stdout: Where its output goes; this process's by default.
        environment: Its environment; this process's by default.

    Raises:
        UsageError: no such command.
    """
    peak = [0]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            with contextlib.suppress(OSError, ValueError):
                peak[0] = max(peak[0], limits.anonymous())

    started = time.perf_counter()
    child = subprocess.Popen(limits.entered_by(command), stdout=stdout, env=environment)
    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    with _terminating(child):
        try:
            while True:
                try:
                    _, status, usage = os.wait4(child.pid, 0)
                    break
                except (
                    KeyboardInterrupt
                ):  # a terminal sent it to the command as well; either way it ends in its own way
                    if not os.isatty(0):
                        child.send_signal(signal.SIGINT)
        finally:
            done.set()
            watcher.join()
    code = os.waitstatus_to_exitcode(status)
    child.returncode = code
    if code in (126, 127):
        raise UsageError(f"{command[0]}: cannot be run (the shell's code {code})")
    charged, both = limits.number("memory.max_usage_in_bytes"), limits.memory_group / "memory.memsw.max_usage_in_bytes"
    return RigReport(
        exit_code=code if code >= 0 else 128 - code,
        seconds=time.perf_counter() - started,
        memory_limit=limits.memory,
        read_limit=limits.read_rate,
        device=limits.device,
        peak_charged=charged,
        peak_anonymous=peak[0],
        peak_process=usage.ru_maxrss * 1024,
        swapped=max(0, int(both.read_text()) - charged) if both.exists() else 0,
        failcnt=max(limits.number("memory.failcnt"), limits.number("memory.memsw.failcnt") if both.exists() else 0),
        read=limits.read_bytes() if limits.device else 0,
    )


@contextlib.contextmanager
def _terminating(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Passes a request to end on to the command, so that the groups are removed after it."""

    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
