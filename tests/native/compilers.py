"""Stand-ins for a C++ compiler: one that hands out what was built already, and ones that hang, tell and wait."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

#: A start that decodes in the graph, on its own; it prints what it says and whether it has the extension.
START = """
import sys
from moe_mlx.native import build
build.PATIENCE_SECONDS = float(sys.argv[1])
try:
    build.load_native(lambda line: print(line, flush=True))
    print("loaded", flush=True)
except build.NativeUnavailableError as error:
    print(error, flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


def compiler(folder: Path, library: Path, before: str = "") -> Path:
    """Makes a compiler that "compiles" to `library` and notes each linking; `before` is run as shell first."""
    path = folder / "c++"
    path.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && { echo stand-in; exit 0; }\n'
        f"{before}\n"
        f'case "$*" in *-shared*|*-bundle*) echo linked >>"{folder}/linked";; esac\n'
        'while [ "$1" != -o ]; do shift; done\n'
        f'cp "{library}" "$2"\n'
    )
    path.chmod(0o755)
    return path


def hanging(folder: Path, library: Path) -> tuple[Path, Path]:
    """A compiler that tells its own and its child's process through a pipe, then hangs; and that pipe."""
    pipe = folder / "pids"
    os.mkfifo(pipe)
    return compiler(folder, library, f'sleep 1000 & echo $$ $! >"{pipe}"; wait'), pipe


def told_by(pipe: Path) -> list[int]:
    return [int(word) for word in pipe.read_text().split()]  # opening waits for a writer


def links(folder: Path) -> int:
    """How often the compiler of this folder has linked."""
    path = folder / "linked"
    return len(path.read_text().splitlines()) if path.exists() else 0


def start(cache: Path, cxx: Path, code: str = START, patience: float = 300) -> subprocess.Popen[str]:
    """Starts a process that wants the extension, and finds no compiler but `cxx`."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "CXX": str(cxx)}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(patience)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def said(process: subprocess.Popen[str]) -> list[str]:
    """Waits for the end of a start and returns its lines, which must be all there is."""
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), (process.returncode, err)
    return out.splitlines()


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def end(pids: list[int], within: float = 20) -> bool:
    """Waits until none of these processes runs, for what was killed is not gone at once; says whether that came."""
    until = time.monotonic() + within
    while (running := any(map(is_running, pids))) and time.monotonic() < until:
        time.sleep(0.01)
    return not running
