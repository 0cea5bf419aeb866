"""What Metal says of this machine, and what macOS needs for itself. Everything answers where there is no Metal too."""

from __future__ import annotations

import os
from typing import Any

#: Left to macOS when the cap is chosen for the user, whatever the GPU may take: bytes or a share of memory, the larger.
_MACOS_BYTES, _MACOS_SHARE = 4 * 10**9, 0.2
#: macOS kills a command buffer that waits for about 5 s, with an error that names nothing. A step may wait twice.
_STALL_SECONDS = 2.0
#: Set to anything but 0, MLX orders CPU and GPU by spinning kernels, which do not see what the CPU writes to a bank.
FAST_SYNCH = "MLX_METAL_FAST_SYNCH"


def metal_info() -> dict[str, Any]:
    """Returns what MLX tells of the GPU, asked for by name: the default device may be the CPU. Empty without Metal."""
    import mlx.core as mx

    return dict(mx.device_info(mx.Device(mx.gpu))) if mx.metal.is_available() else {}


def working_set_bytes() -> int | None:
    """Returns the memory that Metal recommends for the GPU, this process's own included; None without Metal."""
    found = metal_info().get("max_recommended_working_set_size")
    return None if found is None else int(found)


def comfortable_bytes() -> int | None:
    """Returns what MLX may take without starving macOS, whatever limit was raised, and left of a measured cliff.

    None without Metal and without such a measurement.
    """
    from moe_mlx.system.calibration import read_calibration

    total, found = metal_info().get("memory_size"), read_calibration()
    cliff = found.cliff_bytes if found is not None else None
    if total is None:
        return cliff
    room = int(total) - max(_MACOS_BYTES, int(int(total) * _MACOS_SHARE))
    return room if cliff is None else min(room, cliff)


def stall_limit(seconds: float) -> float:
    """Returns how long a step in the graph may wait for a read: on Metal, well within what kills a command buffer."""
    import mlx.core as mx

    return min(seconds, _STALL_SECONDS) if mx.metal.is_available() else seconds


def fast_synch() -> bool:
    """Returns whether MLX was told to order the GPU and the CPU by spinning kernels."""
    return os.environ.get(FAST_SYNCH, "").strip() not in ("", "0")
