"""Two routings on one prompt, published as both answers grow. Engine side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from moe_mlx_tui.engine.orders import Compare
from moe_mlx_tui.engine.reports import explain, receipt_of
from moe_mlx_tui.engine.snapshot import DECODE, IDLE, PREFILL, Column, Compared
from moe_mlx_tui.entry.files import seen

if TYPE_CHECKING:
    from moe_mlx.conversation.answer import Piece
    from moe_mlx.conversation.comparison import Side
    from moe_mlx.conversation.session import Session
    from moe_mlx_tui.engine.gauge_reader import GaugeReader


class Comparing:
    """Carries one `Compare` out.

    Args:
        session: The loaded model.
        gauges: Counts from here on, for each answer anew.
        publish: Makes a snapshot with these changes.
        interval: Seconds between two snapshots.
    """

    def __init__(self, session: Session, gauges: GaugeReader, publish: Callable[..., None], *, interval: float) -> None:
        self.session, self.gauges = session, gauges
        self._publish, self._interval = publish, interval
        self._shown = Compared("", ())
        self._pieces: list[list[str]] = [[], []]
        self._tokens: list[list[int]] = [[], []]
        self._told = 0.0

    def run(self, order: Compare, stop: threading.Event) -> None:
        """Answers twice; what goes wrong is published and the session stays usable."""
        from moe_mlx.conversation.comparison import compare
        from moe_mlx.routing.spelled import spelled

        self._shown = Compared(order.turn, tuple(Column(name) for name in order.routings))
        self._publish(compared=self._shown)
        try:
            one, other = (spelled(name, self.session.runtime.routing) for name in order.routings)
            self._shown = replace(self._shown, columns=(Column(one.describe()), Column(other.describe())))
            compare(
                self.session,
                self.session.encode(seen(order.messages)),
                (one, other),
                stop=stop,
                on_begin=self._begin,
                on_prefill=lambda done, total: self._publish(done=done, total=total),
                on_piece=self._grow,
                on_side=self._stands,
            )
            self._shown = replace(self._shown, over=True)
        except Exception as error:
            self.session.forget()
            self._shown = replace(self._shown, over=True, error=explain(error))
        self._publish(phase=IDLE, activity="", done=0, total=0, compared=self._shown)

    def _begin(self, number: int) -> None:
        self.gauges.begin()
        routing = self._shown.columns[number].routing
        self._publish(phase=PREFILL, activity=f"{routing}: reading the prompt", tokens=0, done=0, total=0)

    def _grow(self, number: int, piece: Piece) -> None:
        self._pieces[number].append(piece.text)
        self._tokens[number].append(piece.token)
        now = time.perf_counter()
        if len(self._tokens[number]) == 1 or now - self._told >= self._interval:
            self._told = now
            self._tell(number, None)

    def _stands(self, number: int, side: Side) -> None:
        self._tell(number, side)

    def _tell(self, number: int, side: Side | None) -> None:
        column = replace(self._shown.columns[number], pieces=tuple(self._pieces[number]))
        if side is not None:
            column = replace(column, receipt=receipt_of(side.answer, self.session))
        columns = list(self._shown.columns)
        columns[number] = column
        self._shown = replace(self._shown, columns=tuple(columns), parted=self._parted(whole=side is not None))
        routing, count = column.routing, len(column.pieces)
        self._publish(
            phase=DECODE, activity=f"{routing}: {count} tokens", tokens=count, done=0, total=0, compared=self._shown
        )

    def _parted(self, *, whole: bool) -> int | None:
        """Returns where they part, as far as both go; that one is shorter counts once the second stands."""
        from moe_mlx.conversation.comparison import parting

        one, other = map(tuple, self._tokens)
        if not other:
            return None
        return parting(one, other) if whole else parting(one[: len(other)], other)
