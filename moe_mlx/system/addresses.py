"""What an address means to whoever serves on it."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Returns whether an address or name means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
