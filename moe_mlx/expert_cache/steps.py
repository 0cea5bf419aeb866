"""The model call under way: its number, whose thread makes it, and what a recorder is told of a decode step."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from moe_mlx.errors import TWO_THREADS, UsageError
from moe_mlx.routing.policy import Scores


@dataclass(frozen=True, slots=True)
class DecodeEvent:
    """One token in one layer, as `eval` scores it and a trace keeps it.

    Attributes:
        index: MoE ordinal of the layer.
        step: Number of the model call.
        scores: float32 `[E]`, what the model ranks by; it and the next two empty where the router is not known.
        raw: float32 `[E]`, the same before groups were masked.
        weigh: float32 `[E]`, what the model weighs by.
        exact: The model's own choice in its own order.
        touched: The experts used, distinct, in touch order.
        guess: float32 `[E]`, what this layer's router says of the router input of the layer before it, as prefetch
            asks it; None where nobody could ask.
    """

    index: int
    step: int
    scores: Scores
    raw: Scores
    weigh: Scores
    exact: tuple[int, ...]
    touched: tuple[int, ...]
    guess: Scores | None = None


@dataclass(eq=False)
class StepCounter:
    """Numbers the model calls: a call begins when a layer comes round that is not behind the last one seen."""

    step: int = 0
    last_index: int = -1
    thread: int = 0
    on_begin: list[Callable[[], None]] = field(default_factory=list)
    _backward: tuple[int, int] = (0, -1)  # the number of the way back under way, and the layer that it reached
    _of_thread: ClassVar[threading.local] = threading.local()

    @classmethod
    def latest(cls) -> StepCounter | None:
        """Returns the counter of the model that this thread called last, if that model is still there."""
        called: Callable[[], StepCounter | None] = getattr(cls._of_thread, "counter", lambda: None)
        return called()

    def enter(self, index: int, *, alone: bool = True) -> int:
        """Returns the number of the call under way, as MoE layer `index` is entered.

        Args:
            index: MoE ordinal.
            alone: Whether the layer has slots to share, so that no other thread may be in the middle of a call.

        Raises:
            UsageError: another thread has called the model meanwhile.
        """
        if index <= self.last_index or self.last_index < 0:
            self.step += 1
            self._of_thread.counter, self.thread = weakref.ref(self), threading.get_ident()
            for call in self.on_begin:
                call()
        if alone:
            self.check_thread()
        self.last_index = index
        return self.step

    def enter_backward(self, index: int) -> int:
        """Returns the number of the way back under way: a call of its own, from the last layer to the first."""
        step, reached = self._backward
        if index >= reached or step != self.step:
            self.step += 1
            step = self.step
        self._backward, self.last_index = (step, index), -1
        return step

    def begin_anew(self) -> None:
        """Lets the next layer entered begin a call, whichever it is."""
        self.last_index = -1

    @property
    def layers_passed(self) -> int:
        """Layers that the call under way has entered, or the last one where none is."""
        return self.last_index + 1

    def check_thread(self) -> None:
        """Raises UsageError where another thread has begun a call in the middle of this thread's."""
        if self.thread != threading.get_ident():
            raise UsageError(TWO_THREADS)
