"""Plays a recording as a source of snapshots: pause, speed, seek. Without any model."""

from __future__ import annotations

import time
from collections.abc import Callable

from moe_mlx_tui.engine.orders import Order
from moe_mlx_tui.engine.snapshot import Snapshot
from moe_mlx_tui.recording.recording import Recording

SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


class Player:
    """A source with a clock of its own.

    Attributes:
        jumps: Counts the seeks, so that the screen knows when to build anew.
    """

    live = False

    def __init__(self, recording: Recording, clock: Callable[[], float] = time.monotonic) -> None:
        self.recording, self._clock = recording, clock
        self.speed, self.paused, self.jumps = 1.0, False, 0
        self._position, self._since = 0.0, clock()

    @property
    def position(self) -> float:
        """Seconds into the recording."""
        if not self.paused:
            now = self._clock()
            self._position += (now - self._since) * self.speed
            self._since = now
        self._position = max(0.0, min(self._position, self.recording.seconds))
        return self._position

    @property
    def latest(self) -> Snapshot:
        """The snapshot at this moment."""
        return self.recording.at(self.recording.index_at(self.position))

    def start(self) -> None:
        """Plays from the beginning."""
        self._position, self._since = 0.0, self._clock()

    def submit(self, order: Order) -> None:
        """A recording takes no orders."""

    def close(self) -> None:
        """Nothing to end."""

    def toggle(self) -> None:
        """Pauses, or goes on; at the end starts over."""
        position = self.position
        if not self.paused and position >= self.recording.seconds:
            self.seek(-position)
            return
        self._since = self._clock()
        self.paused = not self.paused

    def faster(self, steps: int) -> None:
        """Takes the next speed up or down."""
        place = SPEEDS.index(self.speed) + steps
        self._position = self.position
        self.speed = SPEEDS[max(0, min(len(SPEEDS) - 1, place))]

    def seek(self, seconds: float) -> None:
        """Jumps that many seconds on, or back."""
        self._position = max(0.0, min(self.position + seconds, self.recording.seconds))
        self._since = self._clock()
        self.jumps += 1

    def turns(self) -> list[Snapshot]:
        """Returns the last snapshot of each turn that was over before this moment, and the present one's."""
        now = self.recording.index_at(self.position)
        return [self.recording.at(index) for index in self.recording.ends_of_turns(now)]
