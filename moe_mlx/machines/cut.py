"""Ends what MLX's ring waits for: its waits have no limit, but a connection that is shut down ends them at once."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_DESCRIPTORS = Path("/dev/fd")


def cut_connections(ports: Collection[int]) -> int:
    """Shuts down every connection of this process from or to one of some ports; they stay open, and are MLX's to close.

    Args:
        ports: Of the ring. None for jaccl, whose connections are no sockets.

    Returns:
        How many were shut down.
    """
    if not ports:
        return 0
    found = 0
    for entry in list(_DESCRIPTORS.iterdir()):
        with suppress(OSError, ValueError):
            fd = int(entry.name)
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.socket(fileno=os.dup(fd)) as connection:
                if _port(connection.getsockname()) in ports or _port(_peer(connection)) in ports:
                    connection.shutdown(socket.SHUT_RDWR)
                    found += 1
    return found


def _peer(connection: socket.socket) -> object:
    try:
        return connection.getpeername()
    except OSError:  # it listens
        return None


def _port(address: object) -> int:
    return int(address[1]) if isinstance(address, tuple) and len(address) > 1 else -1
