"""Warm-up: before the first token, empty slots are filled with what history says was hot.

It never evicts, never delays a miss and is counted apart. Under exact routing it changes no answer and goes on
bit by bit while nothing else is to be done. Under a lossy policy answers depend on what is resident, so it is done
whole before the first answer, or not at all: the same history gives the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from moe_mlx.errors import ExpertReadError
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.reading import ReaderPool
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx.expert_cache.steps import StepCounter
from moe_mlx.history.file import History
from moe_mlx.system.given import check_choice

#: "on": whole, before `load` returns. "idle": in steps that a front end asks for, under exact routing only.
WARM_WAYS = ("off", "on", "idle")


def check_warm(warm: str) -> str:
    """Returns the way asked for.

    Raises:
        UsageError: there is no such way.
    """
    check_choice("warm", warm, WARM_WAYS)
    return warm


class Warmup:
    """What a model's warm-up has read, and what is left of it: hottest first, a few experts of one layer at a time.

    Attributes:
        experts: Experts it has read since loading or the last reset; in no other count.
        nbytes: Bytes of those.
    """

    def __init__(
        self,
        layers: Sequence[LayerCache],
        history: History | None,
        pool: ReaderPool,
        counter: StepCounter,
        say: Callable[[str], None],
    ) -> None:
        self._counter, self._say, self.experts, self.nbytes = counter, say, 0, 0
        self._step = counter.step
        width = pool.readers
        rounds: list[list[tuple[LayerCache, list[int]]]] = []
        known = () if history is None else zip(layers, history, strict=True)
        for cache, layer in known:
            hot = [] if cache.full else layer.hottest()[: cache.table.slots + cache.table.low]
            for place, start in enumerate(range(0, len(hot), width)):
                if place == len(rounds):
                    rounds.append([])
                rounds[place].append((cache, hot[start : start + width]))
        #: Last comes first: the hottest of every layer, then the next.
        self._left = [batch for batches in reversed(rounds) for batch in reversed(batches)]

    @property
    def pending(self) -> bool:
        """Whether there is something left that may still be read: not once a step has run."""
        if self._left and self._counter.step != self._step:
            self._left.clear()
        return bool(self._left)

    def step(self) -> None:
        """Reads one batch; an expert that cannot be read ends the warm-up with one line, its slot empty."""
        if not self.pending:
            return
        cache, batch = self._left.pop()
        cache.claim()
        table = cache.table
        wanted, coarse = _into_empty(table, [expert for expert in batch if table.slot_of[expert] < 0])
        if not wanted:
            return
        older = table.hottest()
        try:
            self.nbytes += cache.fill(wanted, coarse)
        except ExpertReadError as error:
            self._left.clear()
            self._say(f"warm-up ends early: {error}")
        # Eviction begins with the oldest touch, which has to be the least used of them.
        table.touch([*reversed(wanted), *reversed(older)])
        self.experts += sum(table.slot_of[expert] >= 0 for expert in wanted)

    def finish(self) -> None:
        """Reads all that is left."""
        while self.pending:
            self.step()

    def while_idle(self, lock: AbstractContextManager[object], wanted_elsewhere: Callable[[], bool]) -> bool:
        """Reads on until it is done or something better is to be done; returns whether it is done just now.

        Args:
            lock: Held for each batch.
            wanted_elsewhere: Asked between batches.
        """
        begun = self.pending
        while self.pending and not wanted_elsewhere():
            with lock:
                self.step()
        return begun and not self.pending

    def summary(self) -> str:
        """Returns one line for people; empty where nothing was read."""
        return f"warmed {self.experts} experts from history" if self.experts else ""

    def give_up(self) -> None:
        """Leaves the rest unread."""
        self._left.clear()

    def reset(self) -> None:
        """Leaves the rest unread, and counts from here on."""
        self.give_up()
        self.experts = self.nbytes = 0


def _into_empty(table: ResidencyTable, experts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns those that find an empty slot, and which of them find low ones alone: the last."""
    whole, low = (list(table.owner[part]).count(-1) for part in (slice(table.slots), slice(table.slots, None)))
    return list(experts[: whole + low]), list(experts[whole : whole + low])


def warm_up(
    layers: Sequence[LayerCache],
    history: History | None,
    pool: ReaderPool,
    counter: StepCounter,
    way: str,
    say: Callable[[str], None],
) -> Warmup:
    """Fills slots with what the history says was hot, or prepares to.

    Args:
        layers: The model's, their slots empty.
        history: What was hot; None where nothing is known.
        pool: What reads.
        counter: Numbers the model's calls.
        way: One of `WARM_WAYS`; "idle" is done under exact routing only.
        say: Gets one line.
    """
    warmup = Warmup(layers, history, pool, counter, say)
    if way == "off" or (way == "idle" and any(cache.lossy for cache in layers)):
        warmup.give_up()
    elif way == "on":
        warmup.finish()
        if line := warmup.summary():
            say(line)
    return warmup
