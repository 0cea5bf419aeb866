"""Answers that wait for their turn: any thread may add some, the generating thread takes them in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from moe_mlx.serving.job import Failed, Job, Reading
from moe_mlx.serving.refusal import RefusalError

#: Seconds between two notices to those who wait.
NOTICE_SECONDS = 1.0


class Waiting:
    """The queue."""

    def __init__(self, most: int) -> None:
        """Begins empty.

        Args:
            most: Answers that may wait at once.
        """
        self.most = most
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._refusing: RefusalError | None = None
        self._noticed = 0.0

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, jobs: Sequence[Job]) -> None:
        """Puts answers at the end, all of them or none.

        Raises:
            RefusalError: the queue is full, or closed.
        """
        with self._changed:
            if self._refusing is not None:
                raise self._refusing
            waiting = sum(not job.left.is_set() for job in self._jobs)
            if waiting + len(jobs) > self.most:
                raise RefusalError(429, f"{waiting} requests are waiting already: try again later")
            self._jobs.extend(jobs)
            self._changed.notify()

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Puts answers that had begun at the front again, in their order, however many wait."""
        with self._changed:
            self._jobs.extendleft(reversed(jobs))

    def first(self) -> Job | None:
        """Returns whose turn it is; those whose client has left are let go."""
        with self._changed:
            for job in [job for job in self._jobs if job.left.is_set()]:
                self._jobs.remove(job)
            return self._jobs[0] if self._jobs else None

    def take(self) -> Job:
        """Takes the first one out."""
        with self._changed:
            return self._jobs.popleft()

    def notice(self) -> None:
        """Tells those who wait that they do, now and then."""
        now = time.monotonic()
        if self._jobs and now - self._noticed > NOTICE_SECONDS:
            self._noticed = now
            for job in list(self._jobs):
                job.emit(Reading(0, 0))

    def close(self, refusal: RefusalError) -> None:
        """Takes no further answers."""
        with self._changed:
            self._refusing = refusal

    def end_all(self, refusal: RefusalError) -> None:
        """Closes, and ends all that wait."""
        with self._changed:
            self._refusing = refusal
            for job in self._jobs:
                job.left.set()
                job.emit(Failed(refusal))
            self._changed.notify()

    def rest(self, seconds: float) -> None:
        """Returns when somebody waits, when `wake` is called, or after some seconds."""
        with self._changed:
            if not self._jobs:
                self._changed.wait(seconds)

    def wake(self) -> None:
        """Ends a rest."""
        with self._changed:
            self._changed.notify()
