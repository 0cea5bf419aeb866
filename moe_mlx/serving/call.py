"""One request while its answers are made: their events in the event loop, and their end when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from moe_mlx.serving.engine import Engine
from moe_mlx.serving.job import Ended, Event, Failed, Job, Usage
from moe_mlx.serving.refusal import RefusalError
from moe_mlx.serving.usage import Account


class Call:
    """The answers to one request.

    Attributes:
        jobs: One for each answer.
        usages: What those that are complete took.
    """

    def __init__(self, engine: Engine, jobs: Sequence[Job]) -> None:
        self.engine, self.jobs = engine, list(jobs)
        self.usages: list[Usage] = []
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._open = set(range(len(self.jobs)))
        for index, job in enumerate(self.jobs):
            job.emit = self._emitter(index)

    def submit(self) -> None:
        """Puts the answers in the queue.

        Raises:
            RefusalError: it is full.
        """
        self.engine.submit(*self.jobs)

    def _emitter(self, index: int) -> Callable[[Event], None]:
        def emit(event: Event) -> None:
            with suppress(RuntimeError):  # the loop has ended: nobody listens
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return emit

    def cancel(self) -> None:
        """Ends the answers that are not complete, at their next step."""
        for job in self.jobs:
            job.cancel()

    def leave(self) -> None:
        """The client has gone: ends the answers, and whoever reads `events`."""
        self.cancel()
        for index in range(len(self.jobs)):
            self._events.put_nowait((index, Failed(RefusalError(499, "the client left", code="gone"))))

    @cached_property
    def account(self) -> Account:
        """What they took together; once all are complete."""
        return Account(self.usages)

    def summary(self) -> dict[str, Any]:
        """Returns what the log says of the answers that are complete."""
        first = self.usages[0]
        receipt = first.receipt
        return {
            "prompt_tokens": first.prompt_tokens,
            "cached_tokens": first.reused_tokens,
            "tokens": sum(usage.tokens for usage in self.usages),
            "queued": round(first.queued_seconds, 4),
            "first_token": round(first.first_token_seconds, 4),
            "hits": receipt["hits"],
            "misses": receipt["misses"],
            "bytes_read": receipt["bytes_read"] + receipt["prompt_bytes_read"],
            "swapped": receipt["swapped"],
            "shared_by": receipt["shared_by"],
        }

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Yields events with the number of their answer until all are complete.

        Raises:
            RefusalError: one of them failed; the others are ended.
        """
        try:
            while self._open:
                index, event = await self._events.get()
                if index not in self._open:
                    continue
                if isinstance(event, Failed):
                    raise event.refusal
                if isinstance(event, Ended):
                    self._open.discard(index)
                    self.usages.append(event.usage)
                yield index, event
        finally:
            if self._open:
                self.cancel()
