"""While MLX connects the machines: it waits with Python's lock held, so a small process of its own ends this one.

It looks at the same connections between ranks, tells the others, and ends its parent when a rank goes or time is up.
Run by its path, without packages, so that it is there at once.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

#: Seconds between two looks, at the parent too: its connections stay open for as long as they are open here.
_LOOK = 0.02
#: Seconds that the parent has to end by itself, and the others to see why before its connections are reset.
_OWN, _HEARD = 0.5, 0.3
#: Seconds after which it is ended by force.
_FORCE = 1.0
_CHUNK, _LONGEST = 65_536, 2000


@contextmanager
def limited(connections: Mapping[int, int], names: Mapping[int, str], seconds: float, late: str) -> Iterator[None]:
    """Ends this process with exit code 1 and a line when what runs here takes too long, or a rank is gone meanwhile.

    Args:
        connections: Descriptors of the connections to other ranks, by rank.
        names: What each of those ranks is called.
        seconds: How long it may take.
        late: What is said when it took longer.
    """
    told = {
        "parent": os.getpid(),
        "seconds": seconds,
        "late": late,
        "named": {descriptor: names[rank] for rank, descriptor in connections.items()},
    }
    with _exit_by_signal() as number:
        words = [sys.executable, "-I", "-S", __file__, json.dumps({**told, "signal": number})]
        watch = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=tuple(connections.values()))
        try:
            yield
        finally:
            watch.kill()
            watch.wait()


@contextmanager
def _exit_by_signal() -> Iterator[int]:
    """Gives a signal that ends this process with exit code 1, though no Python can run.

    The C library calls `_exit` with the signal's number. A process that ignores hang-ups goes on doing so.
    """
    import ctypes

    from moe_mlx.store.files import LIBC

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        yield int(signal.SIGKILL)
        return
    LIBC.signal.restype, LIBC.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    LIBC.signal(signal.SIGHUP, ctypes.cast(LIBC._exit, ctypes.c_void_p))
    try:
        yield int(signal.SIGHUP)
    finally:
        LIBC.signal(signal.SIGHUP, int(signal.SIG_DFL))


def closed_among(descriptors: list[int]) -> Callable[[float], list[int]]:
    """Returns what waits some seconds for the other sides to close, whatever lies unread, and gives those that did."""
    if sys.platform == "linux":
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLRDHUP)
        return lambda seconds: [descriptor for descriptor, _ in poll.poll(seconds * 1000)]
    queue = select.kqueue()
    wanted = select.KQ_EV_ADD | select.KQ_EV_CLEAR
    queue.control([select.kevent(one, select.KQ_FILTER_READ, wanted) for one in descriptors], 0)
    return lambda seconds: [
        int(event.ident) for event in queue.control(None, len(descriptors), seconds) if event.flags & select.KQ_EV_EOF
    ]


def failure_in(descriptor: int, named: str) -> str:
    """Returns what a rank says of a failure, among what it has sent and nobody has read; "" where it says nothing."""
    text = b""
    with socket.socket(fileno=os.dup(descriptor)) as connection, suppress(OSError):
        text = connection.recv(_CHUNK, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    for line in text.split(b"\n"):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and isinstance(found.get("failed"), str):
                # Rank 0 passes on what it heard, already with the name of whoever failed.
                return f"{named}: {found['failed']}" if "rank" in found else str(found["failed"])
    return ""


def _watch(told: dict[str, Any]) -> None:
    parent = int(told["parent"])
    named = {int(descriptor): str(name) for descriptor, name in told["named"].items()}
    wait, ends, reason = closed_among(list(named)), time.monotonic() + told["seconds"], ""
    while not reason:
        time.sleep(_LOOK)
        if os.getppid() != parent:
            return
        gone = [f"{named[one]} is gone, while the machines were being connected" for one in wait(0)]
        # A connection that is reset takes what it brought with it: what is said there is to be seen before.
        said = [failure_in(descriptor, name) for descriptor, name in named.items()]
        if reason := next(filter(None, [*said, *gone]), ""):
            time.sleep(_OWN)  # where the parent still runs Python it has heard so too, and ends by itself
        elif time.monotonic() > ends:
            reason = str(told["late"])
    message = json.dumps({"failed": reason}).encode() + b"\n"
    for descriptor in named:
        with socket.socket(fileno=os.dup(descriptor)) as connection, suppress(OSError):
            connection.send(message, socket.MSG_DONTWAIT)
    line = "".join(character if character.isprintable() else "?" for character in reason[:_LONGEST])
    print(f"moe-mlx: {line}", file=sys.stderr, flush=True)
    time.sleep(_HEARD)
    ends = time.monotonic() + _FORCE
    with suppress(ProcessLookupError):
        os.kill(parent, int(told["signal"]))
        while os.getppid() == parent and time.monotonic() < ends:
            time.sleep(_LOOK)
        if os.getppid() == parent:
            os.kill(parent, signal.SIGKILL)


if __name__ == "__main__":
    _watch(json.loads(sys.argv[1]))
