"""What the machine is: nothing that names a person or a host."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from moe_mlx.native import abi, build, prebuilt
from moe_mlx.native.toolchain import NativeUnavailableError, find_compiler
from moe_mlx.system.machine import describe_machine
from moe_mlx.system.memory import read_memory, read_sysctl, recommended_bytes
from moe_mlx.system.metal import comfortable_bytes, fast_synch, metal_info, working_set_bytes


def examine(folder: Path, *, small: bool) -> dict[str, Any]:
    """Returns system, memory, limits, tools and versions; sizes in bytes."""
    memory = read_memory()
    return {
        **describe_machine(),
        "macos": platform.mac_ver()[0] or None,
        "gpu": metal_info().get("device_name"),
        "available_bytes": memory.available,
        "swap_used_bytes": memory.swap_used,
        "working_set_bytes": working_set_bytes(),
        "recommended_bytes": recommended_bytes(),
        "comfortable_bytes": comfortable_bytes(),
        "wired_limit_mb": _wired_limit(),
        "command_line_tools": _command_line_tools(),
        "free_disk_bytes": shutil.disk_usage(folder).free,
        "nanobind": _nanobind(),
        "can_build": _why_no_native() or True,
        "came_built": _came_built(),
        "fast_synch": fast_synch(),
        "page_bytes": os.sysconf("SC_PAGESIZE"),
    }


def _wired_limit() -> int | None:
    """The raised limit in MB; 0 for macOS's own."""
    if sys.platform != "darwin":
        return None
    found = read_sysctl("iogpu.wired_limit_mb")
    return int.from_bytes(found[:4], "little") if found else None


def _command_line_tools() -> bool | None:
    if sys.platform != "darwin":
        return None
    try:
        done = subprocess.run(["/usr/bin/xcode-select", "-p"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.returncode == 0


def _nanobind() -> str | None:
    try:
        return version("nanobind")
    except PackageNotFoundError:
        return None


def _came_built() -> bool | str | None:
    """Whether the extension that came with this package fits, or why not; None where none did."""
    library, reason = prebuilt.find()
    return True if library is not None else reason or None


def _why_no_native() -> str:
    """Why the primitive cannot be built here, as far as versions and tools tell; nothing where they agree."""
    try:
        find_compiler()
        folder = build.package_folder("nanobind")
    except NativeUnavailableError as error:
        return str(error)
    return abi.why_not(version("mlx"), version("nanobind"), abi.internals_of(folder))
