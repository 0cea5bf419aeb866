"""What a figure was measured on: enough to judge it by, nothing that names a person or a host."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from moe_mlx.system.memory import read_memory
from moe_mlx.version import __version__


def chip_name() -> str:
    """Returns the processor's name ("Apple M4 Pro"), or its architecture where the system does not tell."""
    if sys.platform == "darwin":
        try:
            found = subprocess.run(
                ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, check=True
            )
            return found.stdout.decode().strip()
        except (OSError, subprocess.CalledProcessError):
            pass
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe_machine() -> dict[str, Any]:
    """Returns system, chip, cores, memory and versions, and whether MLX computes on Metal. Imports MLX."""
    import mlx.core as mx

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.system(),
        "chip": chip_name(),
        "cores": cores,
        "memory_bytes": read_memory().total,
        "metal": bool(mx.metal.is_available()),
        "python": platform.python_version(),
        "moe_mlx": __version__,
        "mlx": _version("mlx"),
        "mlx_lm": _version("mlx-lm"),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def machine_line(machine: dict[str, Any]) -> str:
    """Returns the machine in one line, for the head of a table."""
    where = "Metal" if machine["metal"] else "CPU; nothing here was measured on Metal"
    return (
        f"{machine['system']} {machine['chip']}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.1f} GB, "
        f"mlx {machine['mlx']} on {where}; mlx-lm {machine['mlx_lm']}, moe-mlx {machine['moe_mlx']}, {machine['date']}"
    )
