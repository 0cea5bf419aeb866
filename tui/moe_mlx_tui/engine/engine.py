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
from collections import deque
from typing import TYPE_CHECKING

from moe_mlx.errors import MoeMlxError
from moe_mlx.native.toolchain import end_compilers
from moe_mlx.system.threads import join_whole
from moe_mlx_tui.engine.at_work import ON_SEVERAL, ModelAtWork
from moe_mlx_tui.engine.opening import NOTHING_LOADED, Opening, check_found, let_go
from moe_mlx_tui.engine.orders import Ask, Close, Compare, Configure, Load, Order, Reset, Stop
from moe_mlx_tui.engine.publishing import Publisher
from moe_mlx_tui.engine.reports import explain
from moe_mlx_tui.engine.snapshot import CLOSED, EMPTY, FAILED, IDLE, Compared, Snapshot
from moe_mlx_tui.engine.written import Written

if TYPE_CHECKING:
    from collections.abc import Callable

    from moe_mlx.conversation.session import Session

#: Seconds after which the screen's thread has to let this one go on; Python's own 5 ms are a whole small token.
SWITCH = 0.001
_NO_MODEL = "no model is loaded: choose one"


class Engine:
    """Owns the model. `submit` and `latest` may be used from any thread."""

    live = True

    def __init__(self, args: argparse.Namespace, opener: Callable[..., Session] | None = None) -> None:
        self._thread = threading.Thread(target=self._run, name="moe-mlx-engine", daemon=True)
        self.args, self._opener = args, opener
        self._cap = args.expert_cache  # what every model is loaded with; the cap in force is in args
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._waiting: deque[Order] = deque()
        self.publisher = Publisher(self._thread, lambda: len(self._waiting))
        self._publish = self.publisher.publish
        self._model: ModelAtWork | None = None
        self._halt = threading.Event()
        self._stopped_turns: set[str] = set()
        self._turn = ""
        self._over = threading.Event()
        self._closing = False
        #: Why the model asked for last was not loaded.
        self.failure: Exception | None = None

    @property
    def listeners(self) -> list[Callable[[Snapshot], None]]:
        """Called with each snapshot."""
        return self.publisher.listeners

    @property
    def latest(self) -> Snapshot:
        """The latest snapshot."""
        return self.publisher.latest

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
        threading.Thread(target=self.publisher.watch, args=(self._over,), name="moe-mlx-watch", daemon=True).start()
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
            if self._model is not None:
                self._model.session.keep_prompt()
                self._model.session.close()
            self._publish(phase=CLOSED)
            self._over.set()

    def _next_order(self) -> Order:
        """Waits for an order; until it is there, a warm-up that waits for idle time goes on."""
        if self._model is not None:
            runtime = self._model.session.runtime
            runtime.warm_while_idle(lambda: not self._orders.empty(), self.publisher.remark)
        return self._orders.get()

    def _open(self) -> None:
        """Loads what the arguments name; a failure is published, and another model may be asked for."""
        self.failure = None
        opening = self.publisher.opening = Opening(self.args, self._publish, self._opener)
        try:
            self._model = self._at_work(opening.run())
        except Exception as error:
            self.failure = error
            self._publish(phase=FAILED, activity="", done=0, total=0, error=explain(error))

    def _at_work(self, session: Session) -> ModelAtWork:
        """Presents a loaded model; one that cannot be presented is let go of."""
        try:
            model = ModelAtWork(session, self.args, self.publisher, self._halt, self._between_tokens)
            model.present()
            return model
        except BaseException:
            let_go(session)
            raise

    def _switch(self, order: Load) -> None:
        """Runs another model; the one there is stays where the other cannot even be found."""
        if self._model is not None and self._model.on_several:
            self._publish(remark=f"not changed: {ON_SEVERAL}")
            return
        cap = self._cap if order.model else self.args.expert_cache
        args = argparse.Namespace(**{**vars(self.args), "expert_cache": cap, **order.options})
        if order.model:
            args.model, args.revision, args.adapter_path = order.model, order.revision, None
            args.draft_model = None  # it has another model's tokens
        try:
            check_found(args)
        except (MoeMlxError, OSError) as error:
            self._publish(remark=f"not changed: {explain(error)}")
            return
        publisher = self.publisher
        publisher.gauges = None
        session = self._model.session if self._model is not None else None
        self._model = None
        if session is not None:
            let_go(session)
            del session
        self.args, publisher.written, self._turn = args, Written(None), ""
        self._publish(**NOTHING_LOADED)
        self._open()

    def _carry_out(self, order: Order) -> None:
        if isinstance(order, Load):
            self._switch(order)
        elif self._model is None:
            if isinstance(order, Compare):
                self._publish(compared=Compared(order.turn, (), over=True, error=_NO_MODEL))
            elif isinstance(order, Ask):
                self._publish(turn=order.turn, at=order.at, error=self.publisher.said.error or _NO_MODEL)
        elif isinstance(order, Ask | Compare):
            self._turn = order.turn
            self._halt.clear()
            if order.turn in self._stopped_turns or self._closing:
                self._halt.set()
            if isinstance(order, Ask):
                self._model.answer(order)
            else:
                self._model.compare(order)
        elif isinstance(order, Configure):
            self._model.configure(order)
        elif isinstance(order, Reset):
            self._model.empty()

    def _between_tokens(self) -> None:
        """Changes settings that were asked for; what has to wait for the end of the answer waits."""
        while not self._orders.empty():
            order = self._orders.get()
            if isinstance(order, Configure) and self._model is not None and not self._model.on_several:
                self._model.configure(order)
            else:
                self._waiting.append(order)
