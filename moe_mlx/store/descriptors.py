"""A bounded set of open files, shared by many reader threads.

A large model has thousands of expert files and importing mlx_lm lowers the descriptor limit to 2,048, so files are
opened on demand and the least recently used idle one is closed. A descriptor in use is never closed.
"""

from __future__ import annotations

import errno
import os
import resource
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Generic, TypeVar

K = TypeVar("K")

#: Descriptors kept open at most; beyond it, opening again costs microseconds beside a read of megabytes.
MOST = 1024


def allowed(share: int = 2) -> int:
    """Returns how many descriptors to hold: one in `share` of the soft limit as it is now, at least 4."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(4, min(MOST, soft // share))


class Descriptors(Generic[K]):
    """An LRU of open descriptors by key, thread-safe.

    Args:
        opener: Opens the file of a key and returns its descriptor; called without the lock held.
        share: One in `share` of the process's descriptors may be held; the limit is read again at each opening.
    """

    def __init__(self, opener: Callable[[K], int], share: int = 2) -> None:
        self._opener = opener
        self._share = share
        self._open: OrderedDict[K, int] = OrderedDict()
        self._users: dict[int, int] = {}
        self._stale: set[int] = set()
        self._reserved = 0
        self._tight = MOST
        self._free = Condition()
        self.closed = False

    @contextmanager
    def using(self, key: K) -> Iterator[int]:
        """Yields a descriptor of `key` that stays open for the length of the block.

        Raises:
            OSError: When the file cannot be opened.
        """
        fd = self._acquire(key)
        try:
            yield fd
        finally:
            self._release(fd)

    def forget(self, key: K) -> None:
        """Closes the descriptor of `key`, at once or after its last user, so that the next use opens the file anew."""
        with self._free:
            fd = self._open.pop(key, None)
            if fd is not None:
                self._retire(fd)
                self._free.notify()

    def close(self) -> None:
        """Closes every descriptor, those in use after their last user."""
        with self._free:
            self.closed = True
            self.shrink()
            self._free.notify_all()

    def shrink(self) -> None:
        """Closes every idle descriptor and lets go of the others after their last user."""
        with self._free:
            while self._open:
                self._retire(self._open.popitem()[1])

    def __len__(self) -> int:
        return len(self._users) + self._reserved

    def _acquire(self, key: K) -> int:
        with self._free:
            while True:
                if self.closed:
                    raise OSError(errno.EBADF, "the source is closed")
                fd = self._open.get(key)
                if fd is not None:
                    self._open.move_to_end(key)
                    self._users[fd] += 1
                    return fd
                if len(self) < min(allowed(self._share), self._tight) or self._evict():
                    break
                self._free.wait()
            self._reserved += 1
        try:
            fd = self._open_within_limit(key)
        except BaseException:
            with self._free:
                self._reserved -= 1
                self._free.notify()
            raise
        with self._free:
            self._reserved -= 1
            other = self._open.get(key)
            self._users[fd] = 1
            if other is None and not self.closed:
                self._open[key] = fd
            else:  # another thread was faster: this one serves its own block and is closed after it
                self._stale.add(fd)
            return fd

    def _open_within_limit(self, key: K) -> int:
        while True:
            try:
                return self._opener(key)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                # Others in this process hold descriptors too: give one of ours back and hold fewer from now on.
                with self._free:
                    if not self._evict():
                        raise
                    self._tight = max(4, len(self) - 1)

    def _release(self, fd: int) -> None:
        with self._free:
            self._users[fd] -= 1
            if self._users[fd] == 0 and fd in self._stale:
                self._stale.discard(fd)
                self._shut(fd)
            self._free.notify()

    def _evict(self) -> bool:
        for key, fd in self._open.items():
            if self._users[fd] == 0:
                del self._open[key]
                self._shut(fd)
                return True
        return False

    def _retire(self, fd: int) -> None:
        if self._users[fd]:
            self._stale.add(fd)
        else:
            self._shut(fd)

    def _shut(self, fd: int) -> None:
        del self._users[fd]
        os.close(fd)
