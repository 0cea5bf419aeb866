"""Starts the ranks of a group on this machine, as mlx.launch does, each its own process."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Longer than any of this takes on a machine that is busy.
LIMIT = 240


@dataclass
class Rank:
    """A process, and what it wrote."""

    process: subprocess.Popen[str]
    out: Path
    err: Path

    def wait(self, seconds: float = LIMIT) -> int:
        """Waits for its end and returns the exit code."""
        return self.process.wait(seconds)

    @property
    def said(self) -> str:
        """What it said on standard error so far."""
        return self.err.read_text()

    @property
    def told(self) -> str:
        """What it wrote to standard output so far."""
        return self.out.read_text()

    def until(self, words: str, seconds: float = LIMIT) -> None:
        """Waits until it has said some words, on either stream."""
        ends = time.monotonic() + seconds
        while words not in self.said + self.told:
            assert time.monotonic() < ends and self.process.poll() is None, self.said + self.told
            time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Returns ports that nothing listens at, and one more after the largest.

    Below those that systems give to whoever asks for any: between here and its use one of those is soon another's.
    """
    while True:
        first = random.randrange(12_000, 30_000)
        with suppress(OSError):
            for port in range(first, first + count + 1):
                socket.create_server(("127.0.0.1", port)).close()
            return list(range(first, first + count))


@contextmanager
def ranks(
    folder: Path,
    commands: Sequence[Sequence[str]],
    *,
    start: Sequence[int] | None = None,
    environments: Sequence[dict[str, str]] | None = None,
    prefix: Sequence[Sequence[str]] | None = None,
    typed: str = "",
) -> Iterator[list[Rank]]:
    """Starts one process a rank and ends what still runs at the end.

    Args:
        folder: For their output.
        commands: Words after `python`, by rank.
        start: Which of the ranks to start; all by default.
        environments: What each has besides.
        prefix: Words before `python`, by rank.
        typed: What rank 0 reads on standard input; the others read nothing.
    """
    (folder / "in").write_text(typed)
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(len(commands))]))
    started: list[Rank] = []
    for rank in range(len(commands)) if start is None else start:
        out, err = folder / f"out.{rank}", folder / f"err.{rank}"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "convert", ROOT / "tui"))),
            "MLX_RANK": str(rank),
            "MLX_HOSTFILE": str(hosts),
            **(environments[rank] if environments else {}),
        }
        with out.open("w") as o, err.open("w") as e, (folder / "in" if rank == 0 else Path(os.devnull)).open() as i:
            words = [*(prefix[rank] if prefix else ()), sys.executable, *commands[rank]]
            process = subprocess.Popen(words, stdout=o, stderr=e, stdin=i, env=environment, text=True)
        started.append(Rank(process, out, err))
    try:
        yield started
    finally:
        for one in started:
            with suppress(ProcessLookupError):
                one.process.send_signal(signal.SIGCONT)
                one.process.kill()
            one.process.wait()
