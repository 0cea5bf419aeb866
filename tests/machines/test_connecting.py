"""While something keeps Python's lock, as MLX does when it connects machines: who goes is named, and time is up."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.machines.ranks import LIMIT, ROOT, ranks

#: Listens, and sleeps in C for as long as it is let, without giving Python's lock away.
KEEPS = """
import ctypes, json, os, signal, socket, sys, threading
from moe_mlx.machines.connecting import limited
from moe_mlx.machines.line import Line
connections, seconds, ignored = json.loads(sys.argv[1])
for fd in connections.values():
    line = Line.__new__(Line)
    line._socket, line._rest, line._sending = socket.socket(fileno=os.dup(fd)), b"", threading.Lock()
    threading.Thread(target=line.receive, daemon=True).start()
if ignored:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
with limited({int(r): fd for r, fd in connections.items()}, {1: "rank 1 (b)", 2: "rank 2 (c)"}, seconds, "too late"):
    sys.setswitchinterval(1000)  # no listener gets the lock between the word and the sleep
    ctypes.PyDLL(None).write(1, b"waits\\n", 6)
    ctypes.PyDLL(None).sleep(60)
"""


class Waiting:
    """A process that waits so, and our ends of its connections to two ranks."""

    def __init__(self, seconds: float, *, ignored: bool = False) -> None:
        pairs = [socket.socketpair() for _ in range(2)]
        self.others = [ours for ours, _ in pairs]
        told = json.dumps([{rank: theirs.fileno() for rank, (_, theirs) in enumerate(pairs, 1)}, seconds, ignored])
        self.process = subprocess.Popen(
            [sys.executable, "-c", KEEPS, told],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            pass_fds=[theirs.fileno() for _, theirs in pairs],
        )
        for _, theirs in pairs:
            theirs.close()

    def until_it_waits(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "waits\n"

    def ended(self) -> tuple[int, str]:
        """Returns its exit code and what it said."""
        said = self.process.communicate(timeout=LIMIT)[1]
        return self.process.returncode, said


@pytest.fixture
def waiting(request: pytest.FixtureRequest) -> Iterator[Waiting]:
    made = Waiting(**request.param)
    yield made
    made.process.kill()
    made.process.communicate()
    for other in made.others:
        other.close()


@pytest.mark.parametrize("waiting", [{"seconds": 60}], indirect=True)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (b'{"beat":true}\n', "rank 1 (b) is gone, while the machines were being connected"),
        (b'{"beat":true}\n{"failed":"no room","rank":1}\n{"bye', "rank 1 (b): no room"),
        (b'{"failed":"rank 3 (d) is gone"}\n', "rank 3 (d) is gone"),
    ],
)
def test_a_rank_that_goes_ends_it_by_name_and_the_others_hear(waiting: Waiting, words: bytes, said: str):
    waiting.until_it_waits()
    first, second = waiting.others
    first.sendall(words)
    first.close()
    assert waiting.ended() == (1, f"moe-mlx: {said}\n")
    assert json.loads(second.recv(1 << 16)) == {"failed": said}
    assert second.recv(1) == b"", "nobody holds its connections any more"


@pytest.mark.parametrize(
    ("waiting", "code"),
    [({"seconds": 0.3}, 1), ({"seconds": 0.3, "ignored": True}, -signal.SIGKILL)],
    indirect=["waiting"],
)
def test_time_is_up(waiting: Waiting, code: int):
    assert waiting.ended() == (code, "moe-mlx: too late\n")


@pytest.mark.slow
@pytest.mark.parametrize("gone", [0, 1])
def test_a_rank_that_goes_before_mlx_has_connected_it_is_named(tmp_path: Path, gone: int):
    """MLX would wait for it for ever, or for half a minute."""
    tiny_checkpoint("qwen3_moe", tmp_path / "checkpoint", quantization=AFFINE4)
    convert(tmp_path / "checkpoint", tmp_path / "store")
    words = ["generate", "-p", "x", "--parallel", "pipeline", "--model", str(tmp_path / "store")]
    goes = "import os, sys\nfrom moe_mlx.machines import group\ngroup.limited = lambda *_: os._exit(9)\n"
    goes += "from moe_mlx.cli import main\nmain(sys.argv[1:])"
    commands = [["-c", goes, *words] if rank == gone else ["-m", "moe_mlx", *words] for rank in range(3)]
    with ranks(tmp_path, commands) as group:
        assert group[gone].wait() == 9
        began = time.monotonic()
        for rank in sorted({0, 1, 2} - {gone}):
            assert group[rank].wait(30) == 1, group[rank].said
            assert f"rank {gone} (127.0.0.1) is gone" in group[rank].said
        print(f"the others ended {time.monotonic() - began:.1f} s later")
