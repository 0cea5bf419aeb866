"""How many threads the system grants, and waiting for one until the system has let go of it, not only Python."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from moe_mlx.errors import ThreadsRefusedError

#: Longest wait for what a thread does after Python's part of it has ended.
_LINGER_SECONDS = 2.0
#: Where the system does not say which threads are left: far more than a thread's last steps take.
_PAUSE_SECONDS = 0.05
#: Threads that are started after the readers: four that MLX loads with, its streams, a tokenizer's one a core, a
#: progress bar's. MLX aborts or hangs where it is refused one, so a model is loaded only where they are left.
_SPARE = 6 + (os.cpu_count() or 1)
#: How Python, the C++ library and Rust's say that the system refuses a thread.
_REFUSALS = ("can't start new thread", os.strerror(errno.EAGAIN))


def is_refusal(error: BaseException) -> bool:
    """Whether an error of anybody's says that the system refuses a thread."""
    return isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in _REFUSALS)


def granted(wanted: int) -> int:
    """Returns how many of `wanted` threads the system grants, so that enough are left for what starts later.

    Raises:
        ThreadsRefusedError: none, beside those.
    """
    go, begun = threading.Event(), []
    try:
        for _ in range(wanted + _SPARE):
            thread = threading.Thread(target=go.wait, daemon=True)
            thread.start()
            begun.append(thread)
    except RuntimeError:
        if len(begun) <= _SPARE:
            raise ThreadsRefusedError from None
    finally:
        go.set()
        for thread in begun:
            join_whole(thread, 10)
    return len(begun) - _SPARE


def started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Returns a pool whose threads have begun already, so that handing it work cannot fail for want of one.

    Raises:
        ThreadsRefusedError: the system refuses one of them.
    """
    pool, go = ThreadPoolExecutor(threads, thread_name_prefix=name), threading.Event()
    try:
        for _ in range(threads):
            pool.submit(go.wait)
    except RuntimeError:
        pool.shutdown(wait=False, cancel_futures=True)
        raise ThreadsRefusedError from None
    finally:
        go.set()
    return pool


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
