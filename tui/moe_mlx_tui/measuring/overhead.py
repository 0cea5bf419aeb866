"""What the app costs, measured on a real pseudo-terminal that counts bytes: tokens a second, and output a frame.

The app runs in a child process (`python -m moe_mlx_tui.measuring.overhead_child`), so that it has its own terminal.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import Any

from moe_mlx.errors import MoeMlxError

#: Of the terminal: where the map is in Braille, and where it has a place for each expert.
SIZE, LARGE = (132, 40), (200, 60)


def on_terminal(job: dict[str, Any], size: tuple[int, int] = SIZE) -> tuple[dict[str, Any], int]:
    """Runs a job in a child on a pseudo-terminal; returns what it found and the bytes it wrote to the terminal.

    Raises:
        MoeMlxError: the child failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        colours = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "MOE_MLX_HOME": folder}
        environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "SSH_CONNECTION")}
        child = subprocess.Popen(
            [sys.executable, "-m", "moe_mlx_tui.measuring.overhead_child", json.dumps(job), str(out)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment | colours,
            start_new_session=True,
        )
        os.close(slave)
        try:
            count, tail = 0, b""
            while True:
                ready, _, _ = select.select([master], [], [], 0.5)
                if ready:
                    try:
                        data = os.read(master, 1 << 16)
                    except OSError:  # the other side is closed
                        break
                    if not data:
                        break
                    count, tail = count + len(data), (tail + data)[-2000:]
                elif child.poll() is not None:
                    break
        except BaseException:
            child.terminate()  # it is in a session of its own, and would go on
            raise
        finally:
            os.close(master)
        if child.wait() != 0 or not out.is_file():
            raise MoeMlxError(f"the measured app ended with {child.returncode}: {tail.decode(errors='replace')[-800:]}")
        return json.loads(out.read_text()), count


def bytes_a_frame(frames: int, size: tuple[int, int] = SIZE) -> str:
    """Returns the bytes of terminal output a frame at 48 x 128, the whole screen included, as a line."""
    _, few = on_terminal({"kind": "frames", "frames": 1}, size)
    found, many = on_terminal({"kind": "frames", "frames": frames + 1}, size)
    each = (many - few) / frames
    return (
        f"map of 48 x 128 in {size[0]}x{size[1]}: {each / 1000:.1f} kB of terminal output a frame over {frames} frames "
        f"(map, gauges, layers, status), {found['ms']:.1f} ms of processor time a frame"
    )


def compare(args: argparse.Namespace) -> str:
    """Returns tokens a second with and without the app, one process, answers alternating, as a few lines."""
    words = vars(args)
    job = {"kind": "speed", "rounds": words["rounds"], "prompt": words["prompt"], "args": _plain(words)}
    found, nbytes = on_terminal(job)
    without, beside = statistics.median(found["without"]), statistics.median(found["with"])
    lines = [
        f"round {n}: {a:8.1f} tokens/s without the app, {b:8.1f} with it"
        for n, (a, b) in enumerate(zip(found["without"], found["with"], strict=True), start=1)
    ]
    lines.append(
        f"median: {without:.1f} without, {beside:.1f} with the app: {1 - beside / without:+.1%} cost "
        f"({found['tokens']} tokens an answer, {nbytes / 1000:.0f} kB of terminal output in all)"
    )
    return "\n".join(lines)


def _plain(words: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in words.items() if k not in ("rounds", "prompt")}
