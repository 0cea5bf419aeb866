"""What all ranks agree on at every token: rank 0's token, whether it stops, and what each rank has counted.

One sum of integers a token, inside the graph. It hangs on the step's logits and the next step hangs on it, so that
every collective of an answer is one chain: MLX's messages carry no tags, and two that changed places would be taken
for each other. No rank waits for it but by needing its token.

A step that failed on one machine goes on with wrong numbers on all, and a sum that lost its connection is none: MLX may
hand out both before it raises. So the sum says of itself whether it is whole, and no token is taken of one that is not.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from moe_mlx.errors import StepLostError

#: What a rank counts, in the order in which it is summed.
COUNTS = ("hits", "misses", "bytes_read")
#: Kilobytes go into 32 bits where bytes would not.
_KILO = 1024
#: Places of a sum: rank 0's token, whether it stops, how many ranks' reads failed, how many took part, how many ask
#: for less room, how many for more; then each rank's counts; last, all before it times odd weights, which a sum keeps
#: and parts of one do not.
_TOKEN, _STOP, _FAILED, _PRESENT, _DOWN, _UP, _COUNTS = range(7)


class Agreement:
    """Rank 0's lead in one answer.

    Attributes:
        stop: Set by any thread of rank 0 to stop; heard by all two tokens later.
        wish: What this rank wishes of every rank's cache: 1 for larger, -1 for smaller; heard by all two tokens later.
    """

    def __init__(
        self,
        group: Any,
        counts: Callable[[], tuple[int, int, int]],
        failed_by: Callable[[mx.array], mx.array] | None = None,
    ) -> None:
        """Begins an answer.

        Args:
            group: MLX's group.
            counts: Gives this rank's hits, misses and bytes read of the answer so far.
            failed_by: Gives whether this rank's reads in the graph failed before an array was computed, int32 `[1]`;
                None where reads are waited for before anything is computed with them.
        """
        self.stop = threading.Event()
        self.wish = 0
        self._passed_over = 0
        self._group, self._counts, self._failed_by = group, counts, failed_by
        self._leads = group.rank() == 0
        self._controls: deque[mx.array] = deque()
        self._latest: np.ndarray[Any, np.dtype[np.int32]] | None = None

    def sampler(self, chosen: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
        """Returns a sampler whose token is the one that `chosen` chose at rank 0."""

        def agreed(logprobs: mx.array) -> mx.array:
            token = chosen(logprobs).astype(mx.int32) if self._leads else mx.depends(mx.zeros((1,), mx.int32), logprobs)
            failed = mx.zeros((1,), mx.int32) if self._failed_by is None else self._failed_by(logprobs)
            control = self._summed([token, self._flag(), failed], self._counted_here())
            self._controls.append(control)
            return control[:1].astype(mx.uint32)

        return agreed

    def _counted_here(self) -> list[int]:
        rows = [[0] * len(COUNTS) for _ in range(self._group.size())]
        hits, misses, nbytes = self._counts()
        rows[self._group.rank()] = [hits, misses, nbytes // _KILO]
        return [number for row in rows for number in row]

    def _flag(self) -> mx.array:
        return mx.array([int(self._leads and self.stop.is_set())], mx.int32)

    def _summed(self, head: list[mx.array], counts: list[int]) -> mx.array:
        wishes = [int(self.wish < 0), int(self.wish > 0)]
        mine = mx.concatenate([*head, mx.array([1, *wishes, *counts], mx.int32)])
        check = (mine * mx.array(_weights(mine.size))).sum(keepdims=True)
        return mx.distributed.all_sum(mx.concatenate([mine, check]), group=self._group)

    def _whole(self, control: mx.array) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Returns a sum's numbers.

        Raises:
            StepLostError: a rank's read failed before it, or it is no sum of all ranks.
        """
        found = np.array(control)
        with np.errstate(over="ignore"):
            check = (found[:-1] * _weights(found.size - 1)).sum(dtype=np.int32)
        if found[_FAILED] or found[_PRESENT] != self._group.size() or check != found[-1]:
            raise StepLostError("a step of several machines failed on one of them")
        return found

    def take(self) -> None:
        """Takes what all ranks agreed on at the token that was just computed; called once a token, before it is used.

        Raises:
            StepLostError: the token is none: a rank's read failed before it, or a connection did.
        """
        self._latest = self._whole(self._controls.popleft())
        self._passed_over = max(0, self._passed_over - 1)

    @property
    def stops(self) -> bool:
        """Whether all ranks stop after the token that was taken last."""
        return self._latest is not None and bool(self._latest[_STOP])

    @property
    def wished(self) -> int:
        """What all caches do after the token taken last: -1 shrink, as one needs room; 1 grow, as none does."""
        if self._latest is None or self._passed_over:
            return 0
        return -1 if self._latest[_DOWN] else int(self._latest[_UP] == self._group.size())

    def pass_over(self) -> None:
        """Hears no wish of the sums that are under way: they were made before the caches changed."""
        self._passed_over = len(self._controls) + 1

    def prompt_stops(self) -> bool:
        """Returns whether all ranks stop here, between two chunks of a prompt; all of them ask at the same chunks.

        Raises:
            StepLostError: a rank is gone.
        """
        nothing = mx.zeros((1,), mx.int32)
        return bool(self._whole(self._summed([nothing, self._flag(), nothing], []))[_STOP])

    def counted(self) -> list[dict[str, int]]:
        """Returns what each rank has counted by the latest token that was taken, by rank; bytes to the kilobyte."""
        if self._latest is None:
            return []
        numbers = [int(number) for number in self._latest[_COUNTS:-1]]
        rows = [numbers[start : start + len(COUNTS)] for start in range(0, len(numbers), len(COUNTS))]
        return [{"hits": row[0], "misses": row[1], "bytes_read": row[2] * _KILO} for row in rows]


def _weights(count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Returns odd numbers of 31 bits, so that no place goes missing unseen."""
    return ((np.arange(1, count + 1, dtype=np.int64) * 0x9E3779B1) % (1 << 31) | 1).astype(np.int32)
