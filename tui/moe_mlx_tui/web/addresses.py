"""Where the server can be reached: the sockets it listens on and the addresses to print."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
from typing import TextIO

from moe_mlx.errors import MoeMlxError
from moe_mlx.system.addresses import is_loopback


def listen(host: str, port: int) -> list[socket.socket]:
    """Returns sockets that listen already, so that nothing is said or loaded before the port is ours.

    Raises:
        MoeMlxError: the address is taken, not this machine's, or no address.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            only_six = {"dualstack_ipv6": False} if family == socket.AF_INET6 else {}
            sockets.append(socket.create_server(address[:2], family=family, **only_six))
    except OSError as error:
        for taken in sockets:
            taken.close()
        reason = str(error) if isinstance(error, socket.gaierror) or not error.errno else os.strerror(error.errno)
        raise MoeMlxError(f"cannot serve on {host}:{port}: {reason}; try another --host or --port") from error
    return sockets


def _outward(family: socket.AddressFamily, beyond: str) -> str | None:
    """Returns the address that packets to elsewhere would carry; none is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((beyond, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def reachable(host: str) -> list[str]:
    """Returns the hosts under which another device, or this one, finds a server on `host`; the best first."""
    if is_loopback(host):
        return ["localhost" if host != "::1" else host]
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    if not everywhere:
        return [host]
    names = [_outward(socket.AF_INET, "192.0.2.1")]
    if ":" in host:
        names.append(_outward(socket.AF_INET6, "2001:db8::1"))
    own = socket.gethostname()
    with contextlib.suppress(OSError):
        names += [str(row[4][0]) for row in socket.getaddrinfo(own, None, type=socket.SOCK_STREAM)]
    if sys.platform == "darwin":
        names.append(own if own.endswith(".local") else f"{own.split('.')[0]}.local")
    wanted = [name for name in names if name and not is_loopback(name) and (":" in host or ":" not in name)]
    return list(dict.fromkeys(wanted)) or [own]


def address(host: str, port: int, token: str) -> str:
    """Returns the whole address, token included."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}"


def draw_code(text: str, out: TextIO) -> bool:
    """Draws a QR code on a terminal; False where the library is missing."""
    try:
        import segno
    except ImportError:
        return False
    segno.make(text, error="l", micro=False).terminal(out, border=2, compact=True)
    return True
