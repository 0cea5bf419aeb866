"""The machine's C++ compiler: which one, and running it with an end to its time and to whatever it has started."""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import IO

from moe_mlx.errors import one_line

#: A compiler that has not said its version by then counts as one that does not work.
VERSION_SECONDS = 30
#: How often a running compiler is looked at.
_INTERVAL = 0.05
#: As much as is read of what a compiler says.
_LONGEST = 1 << 16


class NativeUnavailableError(Exception):
    """Why decode cannot run in the graph here: a few words on one line."""

    def __init__(self, reason: object) -> None:
        super().__init__(one_line(reason))


class CompilerTooSlowError(NativeUnavailableError):
    """The compiler had not ended when its time was over."""


class _Job:
    """A running command, in a process group of its own: a compiler is several processes."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        # No pipe: what is left of a compiler may hold it open.
        self.said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `end`)
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self.said, stderr=subprocess.STDOUT, process_group=0
            )
        except BaseException:
            self.said.close()
            raise

    def text(self) -> str:
        """What it has said."""
        self.said.seek(0)
        return self.said.read(_LONGEST).decode(errors="replace")

    def end(self) -> None:
        """Kills what still runs of it."""
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.said.close()


_RUNNING: set[_Job] = set()
_OVER = False
#: Held from before a compiler is there until it is in `_RUNNING`, so that none is missed by who ends them.
_STARTING = threading.RLock()


def end_compilers() -> None:
    """Kills every compiler that runs for this process, so that the builds that wanted them fail at once."""
    with _STARTING:
        for job in list(_RUNNING):
            with contextlib.suppress(OSError):
                os.killpg(job.process.pid, signal.SIGKILL)


@atexit.register
def _end_for_good() -> None:
    """A thread that is left behind may want another compiler while the interpreter ends."""
    global _OVER  # noqa: PLW0603
    _OVER = True
    end_compilers()


def run_all(commands: Sequence[Sequence[str]], seconds: float, at_once: int = 1) -> list[str]:
    """Runs commands; whatever ends this call, an interrupt too, ends them and their children first.

    Args:
        commands: Each a program and its arguments.
        seconds: How long they may take together.
        at_once: How many may run at a time.

    Returns:
        What they said, in no order.

    Raises:
        CompilerTooSlowError: they had not ended by then.
        NativeUnavailableError: one could not be started, or failed.
    """
    deadline, waiting, said = time.monotonic() + seconds, deque(commands), []
    mine: list[_Job] = []
    try:
        while waiting or mine:
            while waiting and len(mine) < at_once and (job := _start(waiting[0])) is not None:
                waiting.popleft()
                mine.append(job)
            for job in [job for job in mine if job.process.poll() is not None]:
                said.append(_result(job))
                mine.remove(job)
                _forget(job)
            if _OVER:
                raise NativeUnavailableError("the build was broken off, because the program ends")
            if time.monotonic() > deadline:
                raise CompilerTooSlowError(f"{mine[0].command[0]} had not ended after {seconds:g} s")
            if mine:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    mine[0].process.wait(_INTERVAL)
    finally:
        for job in mine:
            _forget(job)
    return said


def _start(command: Sequence[str]) -> _Job | None:
    """Starts a command; None where the program ends."""
    with _STARTING:
        if _OVER:
            return None
        try:
            job = _Job(command)
        except (OSError, ValueError) as error:  # a NUL in a name
            raise NativeUnavailableError(f"{command[0]} cannot be started: {error}") from None
        _RUNNING.add(job)
        return job


def _result(job: _Job) -> str:
    text = job.text()
    if job.process.returncode:
        code = job.process.returncode
        lines = text.splitlines() or [f"exit code {code}" if code > 0 else f"signal {-code}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise NativeUnavailableError(f"the compiler failed: {first.strip()[:160]}")
    return text


def _forget(job: _Job) -> None:
    job.end()
    _RUNNING.discard(job)


def find_compiler() -> list[str]:
    """Returns the C++ compiler's command: `$CXX`, or the first of clang++ and g++ that is there.

    Raises:
        NativeUnavailableError: there is none.
    """
    variable = os.environ.get("CXX", "")
    try:
        named = shlex.split(variable)
    except ValueError as error:
        raise NativeUnavailableError(f"$CXX cannot be taken apart ({error}): {variable}") from None
    if sys.platform == "darwin" and not named:
        _check_command_line_tools()
    for command in [named] if named else [["clang++"], ["g++"], ["c++"]]:
        if shutil.which(command[0]):
            return command
    raise NativeUnavailableError(f"no C++ compiler ({variable if named else 'clang++ or g++'})")


def _check_command_line_tools() -> None:
    """Without them /usr/bin/clang++ is a shim that opens a dialogue to install them, at each load."""
    try:
        found = subprocess.run(["/usr/bin/xcode-select", "-p"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return  # another macOS than the documented one: the compiler's own answer counts
    if found.returncode:
        raise NativeUnavailableError("Apple's Command Line Tools are not installed (xcode-select --install)")


def version_of(compiler: Sequence[str]) -> str:
    """Returns the first line of what a compiler says of its version.

    Raises:
        NativeUnavailableError: it does not run, or says nothing in `VERSION_SECONDS`.
    """
    try:
        return run_all([[*compiler, "--version"]], VERSION_SECONDS)[0].split("\n")[0]
    except NativeUnavailableError as error:
        raise NativeUnavailableError(f"{compiler[0]} does not run ({error})") from None
