"""Makes snapshots and hands them on: what was said last and what is measured, again and again while nothing is said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moe_mlx_tui.engine.snapshot import LOADING, Snapshot
from moe_mlx_tui.engine.written import Written

if TYPE_CHECKING:
    from moe_mlx_tui.engine.gauge_reader import GaugeReader
    from moe_mlx_tui.engine.opening import Opening

#: Seconds between two snapshots of an answer, and before the second thread steps in.
INTERVAL, STALL = 0.15, 0.25
REMARKS = 20


class Publisher:
    """Holds the latest snapshot; any thread may publish.

    Args:
        owner: The thread that owns MLX.
        waiting: Returns how many turns wait.

    Attributes:
        listeners: Called with each snapshot, in the thread that published it.
        said: The latest snapshot without what is measured.
        published: When that was, as `time.perf_counter` has it.
        written: The answer under way.
        gauges: What is measured of the loaded model; None where there is none.
        opening: The loading under way, or the last one.
        quiet: Publishes nothing while an answer is made; only for measuring what publishing costs.
    """

    def __init__(self, owner: threading.Thread, waiting: Callable[[], int]) -> None:
        self.listeners: list[Callable[[Snapshot], None]] = []
        self.said = self.latest = Snapshot(activity="starting")
        self.written = Written(None)
        self.gauges: GaugeReader | None = None
        self.opening: Opening | None = None
        self.quiet = False
        self._owner, self._waiting = owner, waiting
        self._lock = threading.Lock()
        self._began = self.published = time.perf_counter()

    @property
    def due(self) -> bool:
        """Whether an answer under way should be shown again."""
        return time.perf_counter() - self.published >= INTERVAL

    def publish(self, *, remark: str = "", **changes: Any) -> None:
        """Makes a snapshot of everything, with these changes, and shows it to the listeners."""
        with self._lock:
            if remark:
                changes["remarks"] = (*self.said.remarks, remark)[-REMARKS:]
                changes["remark_count"] = self.said.remark_count + 1
            now = time.perf_counter()
            if changes.get("activity", self.said.activity) != self.said.activity:
                changes["since"] = now - self._began
            self.said = replace(self.said, **changes)
            fresh: dict[str, Any] = {
                "time": now - self._began,
                "text": self.written.text,
                "queued": self._waiting(),
            }
            if (gauges := self.gauges) is not None:
                owner = threading.current_thread() is self._owner
                fresh |= gauges.read(self.said, now - self._began, owner=owner)
            elif self.said.phase == LOADING and self.opening is not None:
                fresh |= self.opening.progress.read()
            self.latest = replace(self.said, **fresh)
            self.published = now
            for listener in self.listeners:
                listener(self.latest)

    def remark(self, line: str) -> None:
        """Publishes a remark."""
        self.publish(remark=line)

    def watch(self, over: threading.Event) -> None:
        """Publishes, until that is over, wherever the owner is inside one long call."""
        while not over.wait(INTERVAL):
            if self.latest.busy and not self.quiet and time.perf_counter() - self.published > STALL:
                self.publish()
