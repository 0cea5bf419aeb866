"""Where the ranks of one group talk beside MLX: over TCP, rank 0 in the middle, a JSON object a line. No MLX here.

MLX's own connections wait without end for a peer that is missing or stands still, and keep a core busy meanwhile. So
ranks meet here first, compare what they are, hear each other's beat while they run, and learn why one of them ended.
What is computed never goes this way.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from moe_mlx.errors import MachinesError, one_line
from moe_mlx.machines.launched import PATIENCE, Launch
from moe_mlx.machines.line import Line
from moe_mlx.machines.pulse import BEAT, Pulse

#: Seconds that the main thread gets to end in order once the group is broken.
_GRACE = 5.0
#: Exit code where it did not, because MLX waits for a peer that will not answer.
_BROKEN = 1


class Meeting:
    """This rank's side of the talk. `open` makes one; `close` ends it.

    Attributes:
        launch: Who we are.
        trouble: Why the group is broken, in one line; "" while it is not.
        own: What this rank itself failed of, where it was the first.
        cut: Called once, from another thread, when the group breaks: ends MLX's waiting.
        say: Gets a line while a rank keeps the others waiting.
        pulse: Signs of life of the other ranks, and their figures.
        on_break: Told why the group is broken, from another thread; whoever sets it sees to it that nobody waits for
            MLX then. Without it a process that MLX keeps waiting is ended.
    """

    def __init__(self, launch: Launch, lines: dict[int, Line], patience: float, say: Callable[[str], None]) -> None:
        self.launch, self.patience, self.say = launch, patience, say
        self.trouble = ""
        self.own: object = None
        self.cut: Callable[[], object] = lambda: None
        self.pulse = Pulse(lines, leads=launch.rank == 0)
        self.on_break: Callable[[MachinesError], None] | None = None
        self._lines = lines
        self._inbox: dict[int, deque[dict[str, Any]]] = {rank: deque() for rank in lines}
        self._left: set[int] = set()
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._minded = threading.Event()
        for rank in lines:
            threading.Thread(target=self._listen, args=(rank,), name=f"moe-mlx-rank-{rank}", daemon=True).start()
        threading.Thread(target=self._beat, name="moe-mlx-beat", daemon=True).start()

    @classmethod
    def open(cls, launch: Launch, *, patience: float = PATIENCE, say: Callable[[str], None]) -> Meeting:
        """Meets every other rank.

        Args:
            launch: Who we are.
            patience: Seconds to wait for one that is missing, now, or silent, later.
            say: Gets a line while others keep us waiting.

        Raises:
            MachinesError: one did not come.
        """
        from moe_mlx.machines.doors import accept_all, connect

        lines = accept_all(launch, patience, say) if launch.rank == 0 else {0: connect(launch, patience, say)}
        return cls(launch, lines, patience, say)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.launch.rank == 0

    def connections(self) -> dict[int, int]:
        """Returns the descriptors of this rank's connections, by rank at the other side."""
        return {rank: line.fileno() for rank, line in self._lines.items()}

    def exchange(self, what: str, mine: Any) -> list[Any]:
        """Gives every rank what each has to say; all of them call it, in the same order.

        Args:
            what: What it is about, the same everywhere.
            mine: This rank's, for JSON.

        Returns:
            Each rank's, by rank.

        Raises:
            MachinesError: the group broke.
        """
        if not self.leads:
            self._send(0, {"at": what, "body": mine})
            found = self._next(0, "all")
            if found["all"] != what or len(found.get("bodies", ())) != self.launch.size:
                self.breaks(f"rank 0 is at {found['all']!r}, this rank at {what!r}: please report it")
                raise self.broken()
            return list(found["bodies"])
        bodies = [mine]
        for rank in range(1, self.launch.size):
            found = self._next(rank, "at")
            if found["at"] != what:
                self.breaks(f"{self.launch.named(rank)} is at {found['at']!r}, rank 0 at {what!r}: please report it")
                raise self.broken()
            bodies.append(found.get("body"))
        self._send_all({"all": what, "bodies": bodies})
        return bodies

    def order(self, order: dict[str, Any]) -> None:
        """Tells every other rank what to do next; rank 0 only."""
        self._send_all({"order": order})

    def next_order(self) -> dict[str, Any]:
        """Waits for what rank 0 wants done next, however long that takes.

        Raises:
            MachinesError: the group broke.
        """
        return dict(self._next(0, "order")["order"])

    def fail(self, reason: object) -> None:
        """Tells the others that this rank ends, and why; it is for this rank to say so to its user."""
        self._minded.set()
        if not self.trouble:
            self.own, self.trouble = reason, one_line(reason)
            self._send_all({"failed": self.trouble, "rank": self.launch.rank})

    def breaks(self, reason: str) -> None:
        """Notes why the group is broken, tells the others, ends MLX's waiting. From any thread; the first counts."""
        with self._changed:
            if self.trouble or self._ended.is_set():
                return
            self.trouble = one_line(reason)
            self._changed.notify_all()
        self._send_all({"failed": self.trouble})
        if self.on_break is not None:
            self._minded.set()
            self.on_break(MachinesError(self.trouble))
        threading.Thread(target=self._last_resort, name="moe-mlx-last-resort", daemon=True).start()
        self.cut()

    def broken(self, wait: float = 2.0) -> MachinesError:
        """Returns the error that says why, after giving the reason a moment to arrive."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self.trouble or self._left), wait)
        self._minded.set()
        ended = ", ".join(f"{self.launch.named(rank)} ended" for rank in sorted(self._left))
        return MachinesError(self.trouble or ended or "the connection to another machine was lost, and nobody said why")

    def close(self) -> None:
        """Ends the talk in order: the others are not told of a failure."""
        self._minded.set()
        self._ended.set()
        self._send_all({"bye": True})
        for line in self._lines.values():
            line.close()

    def _next(self, rank: int, kind: str) -> dict[str, Any]:
        with self._changed:
            self._changed.wait_for(lambda: bool(self.trouble or self._inbox[rank]) or rank in self._left)
            found = self._inbox[rank].popleft() if self._inbox[rank] else {}
            if kind in found:
                return found
        if not self.trouble:
            named = self.launch.named(rank)
            self.breaks(
                f"{named} said {sorted(found)}, {kind!r} was expected: please report it" if found else f"{named} ended"
            )
        raise self.broken()

    def _listen(self, rank: int) -> None:
        named = self.launch.named(rank)
        try:
            while True:
                found = self._lines[rank].receive()
                self.pulse.hear(rank, found)
                if "failed" in found:
                    said = one_line(found["failed"])
                    # Rank 0 passes on what it heard, already with the name of whoever failed.
                    self.breaks(f"{named}: {said}" if "rank" in found else said)
                elif "bye" in found:
                    with self._changed:  # in order: it is missed by whoever still wants something of it
                        self._left.add(rank)
                        self._changed.notify_all()
                    return
                elif "beat" not in found:
                    with self._changed:
                        self._inbox[rank].append(found)
                        self._changed.notify_all()
        except (OSError, ValueError) as error:
            self.breaks(f"{named} is gone ({error})")

    def _beat(self) -> None:
        while not self._ended.wait(BEAT) and not self.trouble:
            self._send_all(self.pulse.sign())
            for rank, silent, says in self.pulse.late():
                if rank in self._left:
                    continue
                if silent > self.patience:
                    self.breaks(f"{self.launch.named(rank)} did not answer for {self.patience:g} s")
                elif says:
                    self.say(f"waiting for {self.launch.named(rank)}, {silent:.0f} s")

    def _send(self, rank: int, message: dict[str, Any]) -> None:
        with suppress(OSError, ValueError):  # whoever listens to that rank finds out why
            self._lines[rank].send(message)

    def _send_all(self, message: dict[str, Any]) -> None:
        for rank in self._lines:
            self._send(rank, message)

    def _last_resort(self) -> None:
        """Ends the process where MLX cannot be made to stop waiting."""
        if not self._minded.wait(_GRACE):
            print(f"moe-mlx: {self.trouble}", file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(_BROKEN)
