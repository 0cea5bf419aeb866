"""Which extension decode in the graph runs on: the one that came with the wheel where it works here, else a built one.

What came along was made on another machine, for a system that it was never run on. A fault of it may end the process
that loads it, so that it decodes the demo in a process of its own first (`prebuilt_trial`), once for each file and
system.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from moe_mlx.errors import one_line
from moe_mlx.native import build, kept, prebuilt
from moe_mlx.native.toolchain import NativeUnavailableError
from moe_mlx.system.whole_files import write_whole

#: A trial takes a second or two; one that has not ended by then counts as one that does not work.
TRIAL_SECONDS = 120


def load_extension(say: Callable[[str], None]) -> ModuleType:
    """Returns the extension, imported at most once in a process.

    Args:
        say: Gets a line when the one that came along is tried, or is not used, and when one is built.

    Raises:
        NativeUnavailableError: none fits, and none can be built.
    """
    if (there := sys.modules.get(build.MODULE)) is not None:
        return there
    library, reason = prebuilt.find()
    if library is not None:
        try:
            _check_tried(library, say)
            return build.import_module(library)
        except (NativeUnavailableError, OSError) as error:
            reason = str(error)
    if reason:
        say(f"the in-graph decode that came with this package is not used: {reason}")
    return build.load_native(say)


def came_along(module: ModuleType) -> bool:
    """Returns whether an extension is one that came with the wheel."""
    return Path(str(module.__file__)).parent == prebuilt.FOLDER


def reject(module: ModuleType, reason: str) -> None:
    """Lets the next starts of a day build one instead of using the extension that came along."""
    library = Path(str(module.__file__))
    with contextlib.suppress(NativeUnavailableError, OSError):
        home = prebuilt.verdict_home(library)
        _works(home).unlink(missing_ok=True)
        kept.note_given_up(home, reason)


def _works(home: Path) -> Path:
    return home.with_suffix(".works")


def _check_tried(library: Path, say: Callable[[str], None]) -> None:
    """Tries an extension, once; what was found is noted, that it does not work for a day.

    Raises:
        NativeUnavailableError: it did not work.
    """
    home = prebuilt.verdict_home(library)
    if _works(home).exists():
        return
    kept.check_rested(home)
    say("trying the in-graph decode that came with this package, once, in a process of its own")
    if reason := _tried(library):
        kept.note_given_up(home, reason)
        raise NativeUnavailableError(reason)
    with contextlib.suppress(OSError):  # it is tried again at the next start
        write_whole(_works(home), "", private=True)


def _tried(library: Path) -> str:
    """Returns what came of a trial in a process of its own, in a few words; nothing where it worked."""
    # Modules from where this process has them and nowhere else: not from the folder that it happens to be in.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-P", "-m", "moe_mlx.loading.prebuilt_trial", str(library)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"tried, it had not ended after {TRIAL_SECONDS:g} s"
    except OSError as error:
        return f"it could not be tried: {error}"
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"tried, it ended its process with {_named(-done.returncode)}"
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines() or [f"exit code {done.returncode}"]
    return one_line(f"tried, {lines[-1][:200]}")


def _named(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
