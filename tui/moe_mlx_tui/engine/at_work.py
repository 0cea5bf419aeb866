"""A loaded model at work: answers, comparisons, and settings that change between two tokens. Engine side."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from moe_mlx.conversation.context import context_watch
from moe_mlx.conversation.opening import OFF, prompt_store_of
from moe_mlx.errors import MachinesError
from moe_mlx_tui.engine.comparing import Comparing
from moe_mlx_tui.engine.gauge_reader import GaugeReader
from moe_mlx_tui.engine.orders import Ask, Compare, Configure
from moe_mlx_tui.engine.publishing import INTERVAL, Publisher
from moe_mlx_tui.engine.reports import explain, receipt_of
from moe_mlx_tui.engine.snapshot import DECODE, IDLE, PREFILL, Compared, Settings
from moe_mlx_tui.engine.written import Written
from moe_mlx_tui.entry.files import seen

if TYPE_CHECKING:
    from moe_mlx.conversation.session import Session


#: Why one machine's app does not load another model where several run it.
ON_SEVERAL = "several machines run this model: leave here, and start another one on all of them"
_COMPARED_ALONE = "several machines run this model, which answers under one routing at a time"


class ModelAtWork:
    """Carries orders out with one session; its counts are the publisher's from here on.

    Args:
        session: The loaded model.
        args: What it was loaded with; kept true when settings change.
        publisher: Of snapshots.
        halt: Set, it ends the answer under way at the next token.
        between: Called between two tokens.
    """

    def __init__(
        self,
        session: Session,
        args: argparse.Namespace,
        publisher: Publisher,
        halt: threading.Event,
        between: Callable[[], None],
    ) -> None:
        from moe_mlx.conversation.leading import LeadingSession  # with MLX, which the session has brought

        self.session, self.args = session, args
        self.gauges = publisher.gauges = GaugeReader(session)
        self.context = context_watch(session)
        self._publisher, self._publish = publisher, publisher.publish
        self._halt, self._between = halt, between
        self._store_is_left = False
        #: Whether several machines run it: then all settings change between answers, on all of them.
        self.on_several = isinstance(session, LeadingSession)
        if isinstance(session, LeadingSession):
            session.meeting.on_break = self._apart

    def _apart(self, error: MachinesError) -> None:
        """Says that a machine is gone, also while nothing is asked; what was said stays on the screen."""
        self._publisher.remark(str(error))

    def present(self) -> None:
        """Publishes the model and what is in force."""
        self._publish(phase=IDLE, activity="", done=0, total=0, model=self.gauges.facts(self.args), **self._in_force())

    def answer(self, ask: Ask) -> None:
        """Answers; what goes wrong is published, and the session stays usable."""
        session, publisher = self.session, self._publisher
        publisher.written = Written(publisher.latest.model)
        self._enter_store()
        self.gauges.begin()
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
            self._generate(ask)
        except Exception as error:
            session.forget()
            self._publish(phase=IDLE, activity="", done=0, total=0, error=explain(error))
            return
        answer = session.last
        assert answer is not None
        for line in self.context.remarks(answer.prompt_tokens + len(answer.tokens)):
            publisher.remark(line)
        self._publish(
            phase=IDLE,
            activity="",
            done=0,
            total=0,
            receipt=receipt_of(answer, session),
            reply=answer.message,
            tokens=len(answer.tokens),
        )

    def _generate(self, ask: Ask) -> None:
        session, publisher = self.session, self._publisher
        prompt = session.encode(seen(ask.messages))
        self._publish(context=len(prompt))
        stream = session.answer(
            prompt, stop=self._halt, on_prefill=lambda done, total: self._publish(done=done, total=total)
        )
        for count, piece in enumerate(stream, start=1):
            publisher.written.add(piece.parts)
            self._between()
            if not publisher.quiet and (count == 1 or publisher.due):
                self._publish(
                    phase=DECODE,
                    activity="",
                    done=count,
                    total=session.sampling.max_tokens,
                    tokens=count,
                    context=len(prompt) + count,
                )

    def compare(self, order: Compare) -> None:
        """Answers under two routings; no part of the conversation."""
        if self.on_several:
            self._publish(compared=Compared(order.turn, (), over=True, error=_COMPARED_ALONE))
            return
        Comparing(self.session, self.gauges, self._publish, interval=INTERVAL).run(order, self._halt)

    def empty(self) -> None:
        """Empties the expert cache and its counters."""
        self.session.forget()
        self.session.runtime.reset()
        self._publish(remark="the expert cache is empty; the next answer starts cold")

    def configure(self, order: Configure) -> None:
        """Changes what is named; what cannot be changed stays, and that is published."""
        phase = self._publisher.said.phase
        try:
            if order.sampling:
                self.session.sampling = replace(self.session.sampling, **order.sampling)
                vars(self.args).update(order.sampling)
            if order.routing:
                self._route(order.routing)
            if order.expert_cache is not None:
                self._publish(activity=f"rebuilding the slots for {order.expert_cache}")
                self.session.runtime.resize(order.expert_cache)
                self.args.expert_cache = order.expert_cache
        except Exception as error:
            self._publish(phase=phase, activity="", remark=f"not changed: {explain(error)}")
            return
        self._publish(phase=phase, activity="", **self._in_force())

    def _route(self, changes: dict[str, Any]) -> None:
        from moe_mlx.loading.light_remark import light_remark

        runtime = self.session.runtime
        if self.session.drafting is not None:
            self.session.drafting.check_routing(changes)
        before = runtime.routing.describe()
        runtime.set_routing(**changes)
        if "light" in changes and (line := light_remark(runtime)):
            self._publish(remark=line)
        vars(self.args).update(changes)
        if runtime.routing.describe() != before:
            self._leave_store()

    def _in_force(self) -> dict[str, Any]:
        session, runtime, args = self.session, self.session.runtime, self.args
        cap = args.expert_cache or f"{runtime.sizing.budget / runtime.source.experts_nbytes:.0%}"
        loaded = tuple((name, str(getattr(args, name))) for name in ("evict", "decode", "prefetch"))
        typed = ("pin",) if getattr(args, "no_history", False) else ("profile", "pin")  # a profile is a history
        loaded += tuple((name, str(getattr(args, name, None) or "")) for name in typed)
        from moe_mlx.loading.measured import measured  # with MLX, which the session has brought

        return {
            "measured": measured(runtime),
            "routing": runtime.routing.describe(),
            "settings": Settings(
                tuple((field.name, getattr(session.sampling, field.name)) for field in fields(session.sampling)),
                tuple((field.name, getattr(runtime.routing, field.name)) for field in fields(runtime.routing)),
                str(cap),
                (*loaded, ("prompt_store", args.prompt_store or OFF)),
            ),
        }

    def _leave_store(self) -> None:
        """Keeps what was read under the routing before; what is read under both belongs to neither."""
        if self.session.store is not None:
            if self._publisher.said.phase == IDLE:
                self.session.keep_prompt()
            self.session.store, self._store_is_left = None, True

    def _enter_store(self) -> None:
        """Begins to keep prompt caches again, under the routing in force."""
        if self._store_is_left:
            session = self.session
            session.forget()
            session.store = prompt_store_of(self.args, session.runtime, session.caching, self._publisher.remark)
            self._store_is_left = False
