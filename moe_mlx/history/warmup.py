"""Warm-up: before the first token, empty slots are filled with what history says was hot.

It never evicts, never delays a miss and is counted apart. Under exact routing it changes no answer and goes on
bit by bit while nothing else is to be done. Under a lossy policy answers depend on what is resident, so it is done
whole before the first answer, or not at all: the same history gives the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moe_mlx.errors import ExpertReadError
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.reading import ReaderPool
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


@dataclass
class WarmCounts:
    """What warm-up has read of a model since loading or the last reset; in no other count.

    Attributes:
        experts: How many experts.
        nbytes: Bytes of those.
    """

    experts: int = 0
    nbytes: int = 0

    def reset(self) -> None:
        """Empties both."""
        self.experts = self.nbytes = 0


class Warmup:
    """What is left to be read in, hottest first, a few experts of one layer at a time.

    Attributes:
        experts: How many experts it has read.
    """

    def __init__(
        self,
        layers: Sequence[LayerCache],
        history: History,
        pool: ReaderPool,
        counter: StepCounter,
        counts: WarmCounts,
        say: Callable[[str], None],
    ) -> None:
        self._counter, self._counts, self._say, self.experts = counter, counts, say, 0
        self._step = counter.step
        width = pool.readers
        rounds: list[list[tuple[LayerCache, list[int]]]] = []
        for cache, layer in zip(layers, history, strict=True):
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
        wanted = [expert for expert in batch if table.slot_of[expert] < 0][: table.owner.count(-1)]
        if not wanted:
            return
        older = table.hottest()
        try:
            self._counts.nbytes += cache.fill(wanted)
        except ExpertReadError as error:
            self._left.clear()
            self._say(f"warm-up ends early: {error}")
        # Eviction begins with the oldest touch, which has to be the least used of them.
        table.touch([*reversed(wanted), *reversed(older)])
        read = sum(table.slot_of[expert] >= 0 for expert in wanted)
        self.experts += read
        self._counts.experts += read

    def finish(self) -> None:
        """Reads all that is left."""
        while self.pending:
            self.step()

    def summary(self) -> str:
        """Returns one line for people; empty where nothing was read."""
        return f"warmed {self.experts} experts from history" if self.experts else ""


@dataclass(frozen=True, slots=True)
class Warmed:
    """What warm-up has done while a model was loaded.

    Attributes:
        counts: What it has read; goes on with `left`.
        left: A warm-up that waits for idle time, where there is one.
    """

    counts: WarmCounts
    left: Warmup | None


def warm_up(
    layers: Sequence[LayerCache],
    history: History | None,
    pool: ReaderPool,
    counter: StepCounter,
    way: str,
    say: Callable[[str], None],
) -> Warmed:
    """Fills slots with what the history says was hot, or prepares to.

    Args:
        layers: The model's, their slots empty.
        history: What was hot; None where nothing is known.
        pool: What reads.
        counter: Numbers the model's calls.
        way: One of `WARM_WAYS`; "idle" is done under exact routing only.
        say: Gets one line.
    """
    counts = WarmCounts()
    if way == "off" or history is None:
        return Warmed(counts, None)
    warmup = Warmup(layers, history, pool, counter, counts, say)
    if way == "idle":
        return Warmed(counts, None if any(cache.lossy for cache in layers) else warmup)
    warmup.finish()
    if line := warmup.summary():
        say(line)
    return Warmed(counts, None)
