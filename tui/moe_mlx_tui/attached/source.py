"""A running `moe-mlx serve` as the source of snapshots.

The map and the gauges come from `/v1/experts`, answers from `/v1/chat/completions`. What belongs to the server's owner
(routing, cap, the model, emptying the cache) cannot be changed from here, and that is said.
"""

from __future__ import annotations

import http.client
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from moe_mlx.errors import MoeMlxError
from moe_mlx_tui.attached.answer import AttachedAnswer
from moe_mlx_tui.attached.link import Link
from moe_mlx_tui.attached.states import States, facts_of
from moe_mlx_tui.engine.orders import Ask, Compare, Order, Stop
from moe_mlx_tui.engine.snapshot import CLOSED, IDLE, Compared, Snapshot

_NOT_OURS = "not changed: the settings of a server belong to whoever runs it"
_NOT_COMPARED = "a server answers under its own routing: `moe-mlx chat` and `generate --compare` compare two"


class AttachedSource:
    """Reads a server's states in a thread; asks it in another one."""

    live = True

    def __init__(self, url: str, key: str | None = None) -> None:
        """Begins with the server's facts.

        Raises:
            UsageError: no address.
            MoeMlxError: no server there, or it does not take the key.
        """
        self.link = Link(url, key)
        self.listeners: list[Callable[[Snapshot], None]] = []
        self._lock = threading.Lock()
        self._latest = Snapshot(activity="connecting")
        self._answer: AttachedAnswer | None = None
        self._closing = False
        self._reply = self.link.ask("/v1/experts")
        self._events = self._reply.events()
        name, facts = next(self._events, ("", {}))
        if name != "facts":
            raise MoeMlxError(f"{self.link.url} is no moe-mlx serve")
        self._states = States(facts_of(facts))

    @property
    def latest(self) -> Snapshot:
        """The newest snapshot."""
        return self._latest

    def start(self) -> None:
        """Begins to read."""
        threading.Thread(target=self._read, name="moe-mlx-attached", daemon=True).start()

    def submit(self, order: Order) -> None:
        """Asks the server, or leaves its answer."""
        if isinstance(order, Ask):
            answer = AttachedAnswer(self.link, order, self._states.facts, self._publish)
            self._answer = answer
            threading.Thread(target=self._ask, args=(answer,), name="moe-mlx-asking", daemon=True).start()
        elif isinstance(order, Stop):
            if self._answer is not None and self._answer.ask.turn == order.turn:
                self._answer.stop()
        elif isinstance(order, Compare):
            self._publish(compared=Compared(order.turn, (), over=True, error=_NOT_COMPARED))
        else:
            self._remark(_NOT_OURS)

    def close(self) -> None:
        """Leaves; the server goes on."""
        self._closing = True
        if self._answer is not None:
            self._answer.stop()
        self._reply.end()

    def _ask(self, answer: AttachedAnswer) -> None:
        try:
            answer.run(lambda: self._latest.routing)
        finally:
            if self._answer is answer:
                self._answer = None

    def _read(self) -> None:
        said = "the server has ended"
        try:
            for name, state in self._events:
                if name == "facts":  # another model has taken its place
                    self._states = States(facts_of(state))
                    continue
                if name == "ended":
                    said = f"the server answers no more: {state['message']}"
                    break
                changes = self._states.measured(state)
                if self._answer is None:
                    others = f"the server answers {state['running']} of its clients" if state["running"] else ""
                    changes |= {"phase": IDLE, "activity": others}
                self._publish(**changes)
        except (OSError, ValueError, KeyError, TypeError, MoeMlxError, zlib.error, http.client.HTTPException) as error:
            said = f"the server at {self.link.url} is gone: {error}"
        if not self._closing:
            self._remark(said, phase=CLOSED, activity="", error=said)

    def _remark(self, line: str, **changes: Any) -> None:
        remarks = (*self._latest.remarks, line)[-20:]
        self._publish(remarks=remarks, remark_count=self._latest.remark_count + 1, **changes)

    def _publish(self, **changes: Any) -> None:
        with self._lock:
            self._latest = replace(self._latest, **changes)
            for listener in self.listeners:
                listener(self._latest)
