"""Warm-up: before the first token, empty slots are filled with what history says was hot.

A hint: it never evicts, never delays a miss and is counted apart. Under exact routing it changes no answer and goes on
bit by bit while nothing else is to be done. Under a lossy policy answers depend on what is resident, so it is done
whole before the first answer, or not at all: the same history gives the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from moe_mlx.errors import ExpertReadError, UsageError
from moe_mlx.history.file import History

if TYPE_CHECKING:
    from moe_mlx.expert_cache.layer import LayerCache
    from moe_mlx.loading.runtime import Runtime

#: "on": whole, before `load` returns. "idle": in steps that a front end asks for, under exact routing only.
WARM_WAYS = ("off", "on", "idle")


def check_warm(warm: str) -> str:
    """Returns the way asked for.

    Raises:
        UsageError: there is no such way.
    """
    if warm not in WARM_WAYS:
        raise UsageError(f"unknown warm {warm!r}: choose one of {', '.join(WARM_WAYS)}")
    return warm


class Warmup:
    """What is left to be read in, hottest first, a few experts of one layer at a time.

    Attributes:
        experts: How many experts it has read.
    """

    def __init__(self, runtime: Runtime, history: History, say: Callable[[str], None]) -> None:
        self.runtime, self._say, self.experts = runtime, say, 0
        self._step = runtime.counter.step
        width = runtime.pool.readers
        rounds: list[list[tuple[LayerCache, list[int]]]] = []
        for cache, layer in zip(runtime.layers, history, strict=True):
            hot = [] if cache.full else layer.hottest()[: cache.table.slots]
            for place, start in enumerate(range(0, len(hot), width)):
                if place == len(rounds):
                    rounds.append([])
                rounds[place].append((cache, hot[start : start + width]))
        #: Last comes first: the hottest of every layer, then the next.
        self._left = [batch for batches in reversed(rounds) for batch in reversed(batches)]

    @property
    def pending(self) -> bool:
        """Whether there is something left that may still be read: not once a step has run."""
        if self._left and self.runtime.counter.step != self._step:
            self._left.clear()
        return bool(self._left)

    def step(self) -> None:
        """Reads one batch; an expert that cannot be read ends the warm-up with one line, its slot empty."""
        if not self.pending:
            return
        cache, batch = self._left.pop()
        cache.claim()
        table = cache.table
        wanted = [expert for expert in batch if table.slot_of[expert] < 0][: table.owner.count(-1)]
        if not wanted:
            return
        older = table.hottest()
        try:
            self.runtime.warmed_bytes += cache.fill(wanted)
        except ExpertReadError as error:
            self._left.clear()
            self._say(f"warm-up ends early: {error}")
        # Eviction begins with the oldest touch, which has to be the least used of them.
        table.touch([*reversed(wanted), *reversed(older)])
        read = sum(table.slot_of[expert] >= 0 for expert in wanted)
        self.experts += read
        self.runtime.warmed += read

    def finish(self) -> None:
        """Reads all that is left."""
        while self.pending:
            self.step()

    def summary(self) -> str:
        """Returns one line for people; empty where nothing was read."""
        return f"warmed {self.experts} experts from history" if self.experts else ""


def idle(runtime: Runtime, wanted_elsewhere: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Goes on with a warm-up that waits for idle time, until it is done or something better is to be done.

    Args:
        runtime: Of the model.
        wanted_elsewhere: Asked between batches; True ends it at once, for good if a step then runs.
        say: Gets one line when it is done.
    """
    warmup = runtime.warmup
    if warmup is None or not warmup.pending:
        return
    if any(cache.lossy for cache in runtime.layers):  # the routing was changed since
        runtime.warmup = None
        return
    while warmup.pending and not wanted_elsewhere():
        with runtime.lock:
            warmup.step()
    if not warmup.pending and (line := warmup.summary()):
        runtime.warmup = None
        say(line)
