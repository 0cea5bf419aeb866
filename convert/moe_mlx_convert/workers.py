"""A few threads for one pass over many files; the first failure stops the pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from moe_mlx.errors import ThreadsRefusedError
from moe_mlx.system.threads import granted

T = TypeVar("T")


def default_workers() -> int:
    """Returns how many threads to copy with: enough to overlap a sync with the next copy, few enough for a disk."""
    return max(2, min(4, os.cpu_count() or 2))


def each(items: Iterable[T], do: Callable[[T], None], workers: int, hurry: Callable[[], object] = lambda: None) -> None:
    """Calls `do` for every item, `workers` at a time, and raises the first failure once the others have stopped.

    Args:
        items: What to work on.
        do: Called in a thread.
        workers: Threads, where the system grants as many.
        hurry: Called upon a failure or an interrupt, before the threads at work are waited for.
    """
    try:
        workers = granted(workers) if workers > 1 else 1
    except ThreadsRefusedError:
        workers = 1
    if workers <= 1:
        for item in items:
            do(item)
        return
    running: set[Future[None]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="convert") as pool:
        try:
            for item in items:
                if len(running) >= 2 * workers:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        future.result()
                running.add(pool.submit(do, item))
            for future in running:
                future.result()
        except BaseException:
            hurry()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
