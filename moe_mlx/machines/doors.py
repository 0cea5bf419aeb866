"""How ranks find each other: rank 0 listens for a while, the others knock until it does."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from moe_mlx.errors import MachinesError
from moe_mlx.machines.launched import MEETING, Launch
from moe_mlx.machines.line import Line

#: What ranks speak; raised when messages change.
PROTOCOL = 2
#: Seconds that a stranger at the door may take to say who it is, and between two knocks.
_HELLO, _KNOCK = 5.0, 0.1
#: Seconds between two signs of life to those that have come.
_BEAT = 0.5
#: Seconds after which missing ranks are named.
_SAID_AFTER = 5.0


def accept_all(launch: Launch, patience: float, say: Callable[[str], None]) -> dict[int, Line]:
    """Waits for every other rank at rank 0's door.

    Raises:
        MachinesError: one did not come, or the address cannot be had.
    """
    host, port = launch.meeting
    ends = time.monotonic() + patience
    lines: dict[int, Line] = {}
    said = False
    with ExitStack() as undo:
        try:
            door = undo.enter_context(socket.create_server((host, port), family=_family(host), backlog=launch.size))
        except OSError as error:
            raise MachinesError(
                f"rank 0 cannot listen at {host}:{port} ({error.strerror or error}): end what does, or set {MEETING} "
                "to another HOST:PORT on every machine"
            ) from None
        while len(lines) < launch.size - 1:
            if (left := ends - time.monotonic()) <= 0:
                reason = (
                    f"{_missing(launch, lines)} did not come within {patience:g} s: is it running, and can it reach "
                    f"{host}:{port}?"
                )
                _tell(lines, {"failed": reason})
                for line in lines.values():
                    line.close()
                raise MachinesError(reason)
            _tell(lines, {"beat": True})  # it is not rank 0 that they wait for
            if not said and patience - left > _SAID_AFTER:
                said = True
                say(f"waiting for {_missing(launch, lines)}, {patience - left:.0f} s")
            door.settimeout(min(left, _BEAT))
            with suppress(TimeoutError):
                connection, _ = door.accept()
                _greet(launch, Line(connection), lines)
    return lines


def _tell(lines: dict[int, Line], message: dict[str, Any]) -> None:
    for line in lines.values():
        with suppress(OSError):  # that it is gone is found out where it is listened to
            line.send(message)


def _greet(launch: Launch, line: Line, lines: dict[int, Line]) -> None:
    """Takes a rank in; whoever is none, or is there already, is shown out."""
    try:
        found = line.receive(_HELLO)
        rank = found.get("hello")
        if (found.get("protocol"), found.get("size")) != (PROTOCOL, launch.size):
            line.send({"failed": f"rank 0 has protocol {PROTOCOL} and {launch.size} ranks: run one moe-mlx everywhere"})
        elif type(rank) is int and 0 < rank < launch.size and rank not in lines:
            line.send({"welcome": rank})
            lines[rank] = line
            return
    except (OSError, ValueError):
        pass
    line.close()


def connect(launch: Launch, patience: float, say: Callable[[str], None]) -> Line:
    """Knocks at rank 0's door until it opens.

    Args:
        launch: Who we are.
        patience: Seconds to knock.
        say: Told once that rank 0 keeps us waiting.

    Raises:
        MachinesError: it did not, or shows us out.
    """
    host, port = launch.meeting
    ends = time.monotonic() + patience
    reason, said = "nothing listens there", False
    while (left := ends - time.monotonic()) > 0:
        if not said and patience - left > _SAID_AFTER:
            said = True
            say(f"waiting for {launch.named(0)}, {patience - left:.0f} s")
        try:
            line = Line(socket.create_connection((host, port), timeout=max(_KNOCK, min(left, _SAID_AFTER))))
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(_KNOCK)
            continue
        try:
            line.send({"hello": launch.rank, "size": launch.size, "protocol": PROTOCOL})
            found = line.receive(max(_HELLO, ends - time.monotonic()))
        except (OSError, ValueError) as error:
            line.close()
            raise MachinesError(f"{launch.named(0)} at {host}:{port} shows rank {launch.rank} out ({error})") from None
        if "failed" in found:
            line.close()
            raise MachinesError(found["failed"])
        return line
    raise MachinesError(
        f"{launch.named(0)} did not open {host}:{port} within {patience:g} s ({reason}): is it running there?"
    )


def _missing(launch: Launch, lines: dict[int, Line]) -> str:
    return ", ".join(launch.named(rank) for rank in range(1, launch.size) if rank not in lines)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
