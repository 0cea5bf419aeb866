"""Waiting for a thread until the system has let go of it, not only Python."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

#: Longest wait for what a thread does after Python's part of it has ended.
_LINGER_SECONDS = 2.0
#: Where the system does not say which threads are left: far more than a thread's last steps take.
_PAUSE_SECONDS = 0.05


def join_whole(thread: threading.Thread, seconds: float) -> bool:
    """Waits for the end of a thread that has used MLX, its thread-local memory included.

    Before Python 3.13 `join` returns while the system still takes a thread down. MLX's thread-local destructors want
    the interpreter's lock then, and where the interpreter is ending meanwhile the whole process is aborted.

    Args:
        thread: Not the calling one.
        seconds: Longest wait for Python's part.

    Returns:
        Whether Python's part has ended.
    """
    thread.join(seconds)
    if thread.is_alive():
        return False
    if sys.version_info >= (3, 13) or thread.native_id is None:
        return True
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        time.sleep(_PAUSE_SECONDS)
        return True
    left = tasks / str(thread.native_id)
    end = time.monotonic() + _LINGER_SECONDS
    while left.exists() and time.monotonic() < end:
        time.sleep(0.001)
    return True
