"""The engine: one thread that owns MLX, loads, answers and publishes snapshots. The only module here that meets MLX.

Orders come through a queue and are carried out between tokens. While an answer is made the engine publishes some six
snapshots a second; a second thread, which never touches MLX, publishes progress where the first is inside one long call
(loading, a chunk of a prompt, a token that waits for the drive).
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading
import time
from collections import deque
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from moe_mlx.conversation.context import context_watch
from moe_mlx.conversation.opening import OFF, prompt_store_of
from moe_mlx.errors import MoeMlxError
from moe_mlx.native.toolchain import end_compilers
from moe_mlx.system.threads import join_whole
from moe_mlx_tui.engine.comparing import Comparing
from moe_mlx_tui.engine.gauge_reader import GaugeReader
from moe_mlx_tui.engine.opening import NOTHING_LOADED, Opening, check_found, let_go
from moe_mlx_tui.engine.orders import Ask, Close, Compare, Configure, Load, Order, Reset, Stop
from moe_mlx_tui.engine.reports import explain, receipt_of
from moe_mlx_tui.engine.snapshot import (
    CLOSED,
    DECODE,
    EMPTY,
    FAILED,
    IDLE,
    LOADING,
    PREFILL,
    Compared,
    Settings,
    Snapshot,
)
from moe_mlx_tui.engine.written import Written

if TYPE_CHECKING:
    from collections.abc import Callable

    from moe_mlx.conversation.context import ContextWatch
    from moe_mlx.conversation.session import Session

#: Seconds between two snapshots of an answer, and before the second thread steps in.
INTERVAL, STALL = 0.15, 0.25
REMARKS = 20
#: Seconds after which the screen's thread has to let this one go on; Python's own 5 ms are a whole small token.
SWITCH = 0.001


class Engine:
    """Owns the model. `submit` and `latest` may be used from any thread."""

    live = True

    def __init__(self, args: argparse.Namespace, opener: Callable[..., Session] | None = None) -> None:
        self._thread = threading.Thread(target=self._run, name="moe-mlx-engine", daemon=True)
        self.args, self._opener = args, opener
        self._cap = args.expert_cache  # what every model is loaded with; the cap in force is in args
        self._opening: Opening | None = None
        self.listeners: list[Callable[[Snapshot], None]] = []
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._waiting: deque[Order] = deque()
        self._halt = threading.Event()
        self._stopped_turns: set[str] = set()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._began = self._published = time.perf_counter()
        self._now = Snapshot(activity="starting")
        self._latest = self._now
        self._written = Written(None)
        self._gauges: GaugeReader | None = None
        self._session: Session | None = None
        self._context: ContextWatch | None = None
        self._closing = False
        #: Why the model asked for last was not loaded.
        self.failure: Exception | None = None
        #: Publishes nothing while an answer is made; only for measuring what publishing costs.
        self.quiet = False
        self._turn = ""
        self._store_is_left = False

    @property
    def latest(self) -> Snapshot:
        """The latest snapshot."""
        return self._latest

    def start(self) -> None:
        """Begins to load."""
        self._thread.start()

    def submit(self, order: Order) -> None:
        """Hands an order over; a stop takes effect at the next token, everything else in turn."""
        if isinstance(order, Stop):
            self._stopped_turns.add(order.turn)
            if self._turn == order.turn:
                self._halt.set()
            return
        if isinstance(order, Close):
            self._closing = True
            self._halt.set()
            end_compilers()
        self._orders.put(order)

    def close(self) -> None:
        """Stops the answer under way, ends the thread and waits for it (ten seconds at most)."""
        if self._thread.is_alive():
            self.submit(Close())
            join_whole(self._thread, 10)
        self._over.set()

    def _run(self) -> None:
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        try:
            self._live()
        finally:
            sys.setswitchinterval(before)

    def _live(self) -> None:
        """Loads, then carries out orders until told to close."""
        threading.Thread(target=self._watch, name="moe-mlx-watch", daemon=True).start()
        if self.args.model is None:
            self._publish(phase=EMPTY, activity="")
        else:
            self._open()
        try:
            while not self._closing:
                order = self._waiting.popleft() if self._waiting else self._next_order()
                try:
                    self._carry_out(order)
                except Exception as error:
                    self._publish(phase=IDLE, activity="", remark=f"not done: {explain(error)}")
        finally:
            if self._session is not None:
                self._session.keep_prompt()
                self._session.runtime.close()
            self._publish(phase=CLOSED)
            self._over.set()

    def _next_order(self) -> Order:
        """Waits for an order; until it is there, a warm-up that waits for idle time goes on."""
        if self._session is not None:
            self._session.runtime.warm_while_idle(lambda: not self._orders.empty(), self._remark)
        return self._orders.get()

    def _open(self) -> None:
        """Loads what the arguments name; a failure is published, and another model may be asked for."""
        self.failure = None
        self._store_is_left = False
        self._opening = Opening(self.args, self._publish, self._opener)
        try:
            self._session = self._opening.run()
        except Exception as error:
            self.failure = error
            self._publish(phase=FAILED, activity="", done=0, total=0, error=explain(error))
            return
        self._gauges = GaugeReader(self._session)
        self._context = context_watch(self._session)
        self._publish(phase=IDLE, activity="", done=0, total=0, model=self._gauges.facts(self.args), **self._in_force())

    def _switch(self, order: Load) -> None:
        """Runs another model; the one there is stays where the other cannot even be found."""
        cap = self._cap if order.model else self.args.expert_cache
        args = argparse.Namespace(**{**vars(self.args), "expert_cache": cap, **order.options})
        if order.model:
            args.model, args.revision, args.adapter_path = order.model, order.revision, None
        try:
            check_found(args)
        except (MoeMlxError, OSError) as error:
            self._publish(remark=f"not changed: {explain(error)}")
            return
        self._gauges, self._context = None, None
        session, self._session = self._session, None
        if session is not None:
            let_go(session)
            del session
        self.args, self._written, self._turn = args, Written(None), ""
        self._publish(**NOTHING_LOADED)
        self._open()

    def _carry_out(self, order: Order) -> None:
        if isinstance(order, Load):
            self._switch(order)
        elif self._session is None:
            if isinstance(order, Compare):
                self._publish(compared=Compared(order.turn, (), over=True, error="no model is loaded: choose one"))
            elif isinstance(order, Ask):
                self._publish(turn=order.turn, at=order.at, error=self._now.error or "no model is loaded: choose one")
        elif isinstance(order, Ask):
            self._answer(order)
        elif isinstance(order, Compare):
            self._compare(order)
        elif isinstance(order, Configure):
            self._configure(order)
        elif isinstance(order, Reset):
            self._session.forget()
            self._session.runtime.reset()
            self._publish(remark="the expert cache is empty; the next answer starts cold")

    def _between_tokens(self) -> None:
        while not self._orders.empty():
            order = self._orders.get()
            if isinstance(order, Configure):
                self._configure(order)
            else:
                self._waiting.append(order)

    def _configure(self, order: Configure) -> None:
        session = self._session
        assert session is not None
        phase = self._now.phase
        try:
            if order.sampling:
                session.sampling = replace(session.sampling, **order.sampling)
                vars(self.args).update(order.sampling)
            if order.routing:
                before = session.runtime.routing.describe()
                session.runtime.set_routing(**order.routing)
                from moe_mlx.loading.light_remark import light_remark

                if "light" in order.routing and (line := light_remark(session.runtime)):
                    self._publish(remark=line)
                vars(self.args).update(order.routing)
                if session.runtime.routing.describe() != before:
                    self._leave_store(session)
            if order.expert_cache is not None:
                self._publish(activity=f"rebuilding the slots for {order.expert_cache}")
                session.runtime.resize(order.expert_cache)
                self.args.expert_cache = order.expert_cache
        except Exception as error:
            self._publish(phase=phase, activity="", remark=f"not changed: {explain(error)}")
            return
        self._publish(phase=phase, activity="", **self._in_force())

    def _answer(self, ask: Ask) -> None:
        session = self._session
        assert session is not None
        self._written, self._turn = Written(self._latest.model), ask.turn
        self._halt.clear()
        self._enter_store(session)
        if ask.turn in self._stopped_turns or self._closing:
            self._halt.set()
        assert self._gauges is not None
        self._gauges.begin()
        self._publish(
            phase=PREFILL,
            activity="reading the prompt",
            done=0,
            total=0,
            unit="tokens",
            turn=ask.turn,
            at=ask.at,
            prompt=ask.messages[-1]["content"],
            reply={},
            tokens=0,
            tps=0.0,
            receipt=None,
            error="",
        )
        try:
            self._generate(session, ask)
        except Exception as error:
            session.forget()
            self._publish(phase=IDLE, activity="", done=0, total=0, error=explain(error))
            return
        answer = session.last
        assert answer is not None and self._context is not None
        for line in self._context.remarks(answer.prompt_tokens + len(answer.tokens)):
            self._remark(line)
        self._publish(
            phase=IDLE,
            activity="",
            done=0,
            total=0,
            receipt=receipt_of(answer, session),
            reply=answer.message,
            tokens=len(answer.tokens),
        )

    def _compare(self, order: Compare) -> None:
        assert self._session is not None and self._gauges is not None
        self._turn = order.turn
        self._halt.clear()
        if order.turn in self._stopped_turns or self._closing:
            self._halt.set()
        Comparing(self._session, self._gauges, self._publish, interval=INTERVAL).run(order, self._halt)

    def _generate(self, session: Session, ask: Ask) -> None:
        prompt = session.encode(list(ask.messages))
        self._publish(context=len(prompt))
        stream = session.answer(prompt, stop=self._halt, on_prefill=self._prefilled)
        for count, piece in enumerate(stream, start=1):
            self._written.add(piece.parts)
            if not self._orders.empty():
                self._between_tokens()
            now = time.perf_counter()
            if not self.quiet and (count == 1 or now - self._published >= INTERVAL):
                self._publish(
                    phase=DECODE,
                    activity="",
                    done=count,
                    total=session.sampling.max_tokens,
                    tokens=count,
                    context=len(prompt) + count,
                )

    def _prefilled(self, done: int, total: int) -> None:
        self._publish(done=done, total=total)

    def _remark(self, line: str) -> None:
        self._publish(remark=line)

    def _in_force(self) -> dict[str, Any]:
        session = self._session
        assert session is not None
        runtime = session.runtime
        names = [f.name for f in fields(session.sampling)]
        routing = [f.name for f in fields(runtime.routing)]
        cap = self.args.expert_cache or f"{runtime.resident_share:.0%}"
        return {
            "routing": runtime.routing.describe(),
            "settings": Settings(
                tuple((name, getattr(session.sampling, name)) for name in names),
                tuple((name, getattr(runtime.routing, name)) for name in routing),
                str(cap),
                self._loading(),
            ),
        }

    def _loading(self) -> tuple[tuple[str, str], ...]:
        """Returns how the model was loaded, in the options' words."""
        args = self.args
        names = ("evict", "decode", "prefetch")
        return (*((name, str(getattr(args, name))) for name in names), ("prompt_store", args.prompt_store or OFF))

    def _leave_store(self, session: Session) -> None:
        """Keeps what was read under the routing before; what is read under both belongs to neither."""
        if session.store is not None:
            if self._now.phase == IDLE:
                session.keep_prompt()
            session.store, self._store_is_left = None, True

    def _enter_store(self, session: Session) -> None:
        """Begins to keep prompt caches again, under the routing in force."""
        if self._store_is_left:
            session.forget()
            session.store = prompt_store_of(self.args, session.runtime, session.caching, self._remark)
            self._store_is_left = False

    def _publish(self, *, remark: str = "", **changes: Any) -> None:
        """Makes a snapshot of everything, with these changes, and shows it to the listeners."""
        with self._lock:
            if remark:
                changes["remarks"] = (*self._now.remarks, remark)[-REMARKS:]
                changes["remark_count"] = self._now.remark_count + 1
            now = time.perf_counter()
            if changes.get("activity", self._now.activity) != self._now.activity:
                changes["since"] = now - self._began
            self._now = replace(self._now, **changes)
            fresh: dict[str, Any] = {
                "time": now - self._began,
                "text": self._written.text,
                "queued": len(self._waiting),
            }
            if self._gauges is not None:
                owner = threading.current_thread() is self._thread
                fresh |= self._gauges.read(self._now, now - self._began, owner=owner)
            elif self._now.phase == LOADING and self._opening is not None:
                fresh |= self._opening.progress.read()
            self._latest = replace(self._now, **fresh)
            self._published = now
            for listener in self.listeners:
                listener(self._latest)

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL):
            if self._latest.busy and not self.quiet and time.perf_counter() - self._published > STALL:
                self._publish()
