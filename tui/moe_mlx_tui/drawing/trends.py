"""What the gauges show over time: rates between snapshots, kept for the sparklines. Knows no screen and no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from moe_mlx_tui.engine.snapshot import DECODE, PREFILL, Snapshot

KEPT = 240
#: Seconds of snapshots that a rate is taken over.
WINDOW = 1.0


@dataclass
class Trends:
    """Feed it every snapshot that is shown.

    Attributes:
        hit: Hit rate, 0 to 1, over the window.
        swapped: Share of chosen experts that exact routing would not have chosen.
        speed: Tokens a second.
        read: Bytes read a second.
        wait: Share of the time that a step stood still for reads.
        spent: Share of a quality's budget that was spent; empty where none is held.
    """

    hit: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    swapped: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    speed: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    read: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    wait: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    spent: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    _window: deque[Snapshot] = field(default_factory=deque)

    def feed(self, snapshot: Snapshot) -> None:
        """Takes in one snapshot; only those of an answer under way move the trends."""
        window = self._window
        if snapshot.phase not in (PREFILL, DECODE):
            window.clear()
            return
        if window and (window[-1].turn != snapshot.turn or window[-1].time >= snapshot.time):
            window.clear()
        window.append(snapshot)
        while len(window) > 2 and snapshot.time - window[0].time > WINDOW:
            window.popleft()
        before = window[0]
        seconds = snapshot.time - before.time
        if seconds <= 0:
            return
        nbytes = snapshot.answer.disk_bytes + snapshot.prefill.bytes_read
        nbytes -= before.answer.disk_bytes + before.prefill.bytes_read
        self.read.append(nbytes / seconds)
        if snapshot.phase != DECODE:
            return
        step = snapshot.answer - before.answer
        if step.hits + step.misses:
            self.hit.append(step.hit_rate)
            self.swapped.append(step.swapped_share)
            self.wait.append(min(1.0, step.wait_seconds / seconds))
        self.speed.append(snapshot.tps)
        if snapshot.price and snapshot.spent:
            self.spent.append(snapshot.spent)
