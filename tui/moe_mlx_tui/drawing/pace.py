"""How often the screen is drawn while the model works: as often as it may, as long as drawing stays cheap."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Of the thread's time, what drawing may take while a model works beside it: both want the interpreter.
SHARE = 0.05
#: Seconds after which a frame comes whatever the last one took.
LONGEST = 0.5


class Pace:
    """Puts frames off until those before them have been paid for.

    Args:
        share: What drawing may take.
        now: Seconds that pass.
        spent: Seconds of processor time of the thread that draws.
    """

    def __init__(
        self,
        share: float = SHARE,
        now: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        self._share, self._now, self._spent = share, now, spent
        self._drawn_at, self._used = now(), spent()

    @property
    def due(self) -> bool:
        """Whether the time since the last frame began pays for what this thread has used since."""
        passed = self._now() - self._drawn_at
        return passed >= LONGEST or self._spent() - self._used <= self._share * passed

    def take(self) -> None:
        """Notes that a frame begins."""
        self._drawn_at, self._used = self._now(), self._spent()
