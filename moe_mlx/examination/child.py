"""One part in a process of its own, ended when its time is over: what wedges there wedges nothing else.

`python -m moe_mlx.examination.child MODULE FOLDER SMALL` prints what the part measured as one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

from moe_mlx.examination.part import DONE, FAILED, OVERDUE, Finding, Part

_MARK = "moe-mlx examination: "


def run_part(part: Part, folder: Path, *, small: bool) -> Finding:
    """Runs a part and returns what it found, whatever becomes of its process."""
    started = time.monotonic()
    command = [sys.executable, "-m", __name__, part.module, str(folder), "small" if small else "full"]
    environment = {**os.environ, "MOE_MLX_HISTORY": "off"}
    running = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    try:
        out, err = running.communicate(timeout=part.limit)
    except subprocess.TimeoutExpired:
        _end(running)
        return Finding(part.name, OVERDUE, time.monotonic() - started, reason=f"not done in {part.limit:g} s")
    except BaseException:
        _end(running)
        raise
    seconds = time.monotonic() - started
    found = next((line for line in out.splitlines() if line.startswith(_MARK)), None)
    if running.returncode == 0 and found is not None:
        return Finding(part.name, DONE, seconds, json.loads(found.removeprefix(_MARK)))
    said = [line for line in err.strip().splitlines() if line.strip()]
    return Finding(part.name, FAILED, seconds, reason=said[-1][:300] if said else f"exit code {running.returncode}")


def _end(running: subprocess.Popen[str]) -> None:
    """Ends a part and all that it started; one that hangs in the kernel is left to itself.

    It is asked first, for its compilers are in process groups of their own.
    """
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(running.pid, number)
        except (ProcessLookupError, PermissionError):
            running.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(timeout=5)
    for pipe in (running.stdout, running.stderr):
        if pipe is not None:
            pipe.close()


def main() -> int:
    """Runs the part that the command line names."""
    module, folder, size = sys.argv[1:]
    examine = import_module(f"moe_mlx.examination.{module}").examine
    print(_MARK + json.dumps(examine(Path(folder), small=size == "small")), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
