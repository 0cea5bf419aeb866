"""What all ranks agree on at every token: rank 0's token, whether it stops, and what each rank has counted.

One sum of integers a token, inside the graph. It hangs on the step's logits and the next step hangs on it, so that
every collective of an answer is one chain: MLX's messages carry no tags, and two that changed places would be taken
for each other. No rank waits for it but by needing its token.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import mlx.core as mx

#: What a rank counts, in the order in which it is summed.
COUNTS = ("hits", "misses", "bytes_read")
#: Kilobytes go into 32 bits where bytes would not.
_KILO = 1024


class Agreement:
    """Rank 0's lead in one answer.

    Attributes:
        stop: Set by any thread of rank 0 to stop; heard by all two tokens later.
    """

    def __init__(self, group: Any, counts: Callable[[], tuple[int, int, int]]) -> None:
        """Begins an answer.

        Args:
            group: MLX's group.
            counts: Gives this rank's hits, misses and bytes read of the answer so far.
        """
        self.stop = threading.Event()
        self._group, self._counts = group, counts
        self._leads = group.rank() == 0
        self._controls: deque[mx.array] = deque()
        self._latest: mx.array | None = None

    def sampler(self, chosen: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
        """Returns a sampler whose token is the one that `chosen` chose at rank 0."""

        def agreed(logprobs: mx.array) -> mx.array:
            if self._leads:
                head = mx.concatenate([chosen(logprobs).astype(mx.int32), self._flag()])
            else:
                head = mx.depends(mx.zeros((2,), mx.int32), logprobs)
            rows = [[0] * len(COUNTS) for _ in range(self._group.size())]
            hits, misses, nbytes = self._counts()
            rows[self._group.rank()] = [hits, misses, nbytes // _KILO]
            body = mx.array([number for row in rows for number in row], mx.int32)
            control = mx.distributed.all_sum(mx.concatenate([head, body]), group=self._group)
            self._controls.append(control)
            return control[:1].astype(mx.uint32)

        return agreed

    def _flag(self) -> mx.array:
        return mx.array([int(self.stop.is_set())], mx.int32)

    def taken(self) -> bool:
        """Returns whether all ranks stop after the token that was just taken; called once a token."""
        self._latest = self._controls.popleft()
        return bool(self._latest[1].item())

    def prompt_stops(self) -> bool:
        """Returns whether all ranks stop here, between two chunks of a prompt; all of them ask at the same chunks."""
        flag = self._flag() if self._leads else mx.zeros((1,), mx.int32)
        return bool(mx.distributed.all_sum(flag, group=self._group).item())

    def counted(self) -> list[dict[str, int]]:
        """Returns what each rank has counted by the latest token that was taken, by rank; bytes to the kilobyte."""
        if self._latest is None:
            return []
        numbers = [int(number) for number in self._latest[2:].tolist()]
        rows = [numbers[start : start + len(COUNTS)] for start in range(0, len(numbers), len(COUNTS))]
        return [{"hits": row[0], "misses": row[1], "bytes_read": row[2] * _KILO} for row in rows]
