"""The steps of one answer of a model that several machines run: the session of rank 0 leads, the others follow."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

import mlx.core as mx

from moe_mlx.conversation.leading import LeadingSession
from moe_mlx.conversation.sampling import Sampling
from moe_mlx.errors import MoeMlxError
from moe_mlx.serving.drawing import Processor
from moe_mlx.serving.job import Job
from moe_mlx.serving.runners import Drawn, Read, Start, Worth


class MachinesRunner:
    """One answer by itself; see `runners.Runner`. Its prompt cache stays with the session, on all ranks alike."""

    def __init__(
        self,
        session: LeadingSession,
        chunk: int,
        start: Start,
        begun: Callable[[int], None],
        notify: Callable[[Read], None],
    ) -> None:
        """Prepares; the first step begins.

        Args:
            session: That leads.
            chunk: Prompt tokens at a time.
            start: Prompt, sampler and processors; its cache is not looked at.
            begun: Told how many tokens of the prompt the session still had.
            notify: Told of each chunk of the prompt while a step is under way.
        """
        self._session, self._start, self._begun, self._notify = session, start, begun, notify
        self.jobs = [start.job]
        self._stop = threading.Event()
        self._chances: deque[mx.array] = deque()
        self._reused: int | None = None
        self._drawn = 0
        session.sampling = Sampling(max_tokens=start.job.drawing.max_tokens)
        session.caching = replace(session.caching, prefill_step_size=chunk)
        self._pieces = session.answer(
            start.prompt,
            stop=self._stop,
            on_prefill=self._progress,
            logits_processors=[self._seeing_all(one) for one in start.processors],
            sampler=self._sampler,
        )

    def _sampler(self, logprobs: mx.array) -> mx.array:
        self._chances.append(logprobs)
        return self._start.sampler(logprobs)

    def _seeing_all(self, one: Processor) -> Processor:
        """mlx-lm shows processors what it computed: what was found in the session's cache goes before it."""

        def seeing_all(tokens: mx.array, logits: mx.array) -> mx.array:
            if self._reused:
                tokens = mx.concatenate([mx.array(self._start.prompt[: self._reused]), tokens])
            return one(tokens, logits)

        return seeing_all

    def _progress(self, done: int, total: int) -> None:
        if self._reused is None:
            self._reused = done
            self._begun(done)
        self._notify(Read(self._start.job, done, total))
        if self._start.job.left.is_set():
            self._stop.set()

    def reading(self) -> bool:
        """Returns whether the prompt is being read."""
        return bool(self.jobs) and not self._drawn

    def step(self) -> Iterator[Drawn | Read | Worth]:
        """See `Runner`."""
        piece = next(self._pieces, None)
        if piece is None:
            if not self._start.job.left.is_set():
                raise MoeMlxError("the answer ended on all machines before it was complete: please report it")
            return
        self._drawn += 1
        yield Drawn(self._start.job, piece.token, self._chances.popleft()[0])

    def take_out(self, job: Job, *, keep: bool) -> Worth | None:
        """See `Runner`: all ranks stop two tokens later, unless they have already."""
        self.jobs = []
        self._pieces.close()
        return None

    def close(self) -> None:
        """See `Runner`."""
        self.jobs = []
        self._pieces.close()
