"""One model's answers under way: which may begin beside which, each step, each end.

An exception ends the answer that it belongs to. Where several were in the same step nobody can say whose it was: each
of them goes on by itself then, from the tokens it has, and the one that fails alone is told.
"""

from __future__ import annotations

import gc
import logging
import time
from contextlib import suppress

import mlx.core as mx

from moe_mlx.errors import DoesNotFitError, MachinesError
from moe_mlx.loading.pressure import PressureWatch
from moe_mlx.serving.answer_steps import AnswerSteps
from moe_mlx.serving.job import Failed, Job, Reading
from moe_mlx.serving.kept_prompts import KeptPrompts
from moe_mlx.serving.loaded import Loaded
from moe_mlx.serving.machines_runner import MachinesRunner
from moe_mlx.serving.refusal import refusal_of
from moe_mlx.serving.runners import AloneRunner, Drawn, Read, TogetherRunner, Worth
from moe_mlx.serving.tally import Tally

log = logging.getLogger("moe_mlx.serve")


class Answering:
    """Makes answers with one loaded model. Used by the generating thread alone, but for the figures.

    Attributes:
        beat: When a step or a chunk of a prompt last began (monotonic seconds).
        kept: Prompt caches of earlier answers.
    """

    def __init__(self, loaded: Loaded, at_once: int, tally: Tally) -> None:
        self.loaded, self.at_once, self.tally = loaded, at_once, tally
        self.beat = time.monotonic()
        self.kept = KeptPrompts(loaded.model, loaded.kept_sequences, loaded.kept_bytes, loaded.store)
        self._steps = AnswerSteps(loaded)
        self._watch = PressureWatch(loaded.runtime, log.warning)
        self._batches = loaded.batches()
        self._runner: TogetherRunner | AloneRunner | MachinesRunner | None = None

    @property
    def jobs(self) -> list[Job]:
        """Answers under way."""
        runner = self._runner
        return [] if runner is None else runner.jobs

    @property
    def trouble(self) -> MachinesError | None:
        """Why the machines that run the model came apart; None while they have not."""
        session = self.loaded.session
        return None if session is None or not session.meeting.trouble else session.meeting.broken()

    @property
    def phase(self) -> str:
        """What is being done: "idle", "prefill" or "decode"."""
        runner = self._runner
        if runner is None or not runner.jobs:
            return "idle"
        return "prefill" if runner.reading() else "decode"

    def fits(self, job: Job) -> bool:
        """Tells whether an answer may begin: rows of one batch are as long as the longest of them."""
        runner = self._runner
        if runner is None or not runner.jobs:
            return True
        if not isinstance(runner, TogetherRunner) or self._alone(job) or runner.reading():
            return False
        jobs = runner.jobs
        longest = max([job.need, *(other.need for other in jobs)])
        return len(jobs) < self.at_once and (len(jobs) + 1) * longest <= self.loaded.room.planned

    def begin(self, job: Job) -> None:
        """Begins an answer; whatever keeps it from beginning is told to its client."""
        try:
            self._begin(job)
        except Exception as error:
            fail(job, error, self.tally)

    def step(self) -> list[Job]:
        """Does one step; returns answers that have to begin again, each by itself."""
        if self._runner is None:
            return []
        self.beat = time.monotonic()
        again: list[Job] = []
        try:
            self._between()
            for event in self._runner.step():
                self._take(event)
            self._drop_gone()
        except Exception as error:
            again = self._recover(error)
        if self._runner is not None and not self._runner.jobs:
            self._drop_runner()
        return again

    def close(self) -> None:
        """Ends what is under way, writes what is to be kept and closes the model."""
        with suppress(Exception):
            self._drop_runner()
        with suppress(Exception):
            self.kept.save(at_once=True)
        with suppress(Exception):
            (self.loaded.session or self.loaded.runtime).close()

    def _alone(self, job: Job) -> bool:
        return job.alone or job.drawing.seed is not None or not self._batches

    def _begin(self, job: Job) -> None:
        if self._runner is not None and not self._runner.jobs:
            self._drop_runner()
        jobs = [*self.jobs, job]
        longest = max(one.need for one in jobs)
        room = self.loaded.room
        self.kept.trim((room.planned - len(jobs) * longest) * room.token_nbytes)
        if self.kept.trimmable:
            job.boundaries = ()
        start = self._steps.begin(job, self.kept)
        if (session := self.loaded.session) is not None:
            self._runner = MachinesRunner(
                session, room.chunk, start, lambda reused: self._steps.begun(job, reused), self._chunk_read
            )
            return
        if self._alone(job):
            self._runner = AloneRunner(
                self.loaded.model, self.loaded.drafting, room.chunk, self.loaded.caching, self._between_chunks, start
            )
            self._runner.watch(self._take)
            return
        if self._runner is None:
            self._runner = TogetherRunner(self.loaded.model, room.chunk, self.at_once)
        assert isinstance(self._runner, TogetherRunner)
        self._runner.add(start)
        for one in jobs:
            one.shared_by = max(one.shared_by, len(jobs))

    def _take(self, event: Drawn | Read | Worth) -> None:
        if isinstance(event, Worth):
            self.kept.keep(event)
            return
        job = event.job
        if job.left.is_set():
            return
        try:
            if isinstance(event, Read):
                job.emit(Reading(event.done, event.total))
                return
            self.tally.generated += 1
            if self._steps.drawn(job, event):
                self._end(job)
        except Exception as error:
            self._out(job, keep=False)
            fail(job, error, self.tally)

    def _end(self, job: Job) -> None:
        worth = self._out(job, keep=not job.grammar)
        usage = self._steps.account(job)
        if worth is not None and self._steps.queued_failure() is None:
            mx.eval([cache.state for cache in worth.cache])
            self.kept.keep(worth)
        self.tally.answered += 1
        self.tally.failed_in_a_row = 0
        self._steps.end(job, usage)

    def _drop_gone(self) -> None:
        for job in self.jobs:
            if job.left.is_set():
                self._out(job, keep=True)

    def _out(self, job: Job, *, keep: bool) -> Worth | None:
        assert self._runner is not None
        if isinstance(self._runner, AloneRunner):
            self._steps.leave(job)
        return self._runner.take_out(job, keep=keep)

    def _chunk_read(self, event: Read) -> None:
        self.beat = time.monotonic()
        self._take(event)

    def _between(self) -> None:
        """Looks for memory pressure; kept prompts go before the expert cache is at its end."""
        if self.loaded.session is not None:  # which looks itself, as every rank does
            return
        try:
            self._watch.between_tokens()
        except DoesNotFitError:
            if not len(self.kept):
                raise
            log.warning("memory pressure: %d prompt caches are let go", len(self.kept))
            self.kept.clear()
            mx.clear_cache()

    def _between_chunks(self) -> None:
        self.beat = time.monotonic()
        self._between()

    def _recover(self, error: Exception) -> list[Job]:
        """Throws away what a failed step may have touched; returns the answers that go on one by one."""
        assert self._runner is not None
        jobs = [job for job in self._runner.jobs if not job.left.is_set()]
        for job in self._runner.jobs:
            self._steps.leave(job)
        error = error.with_traceback(None) if not log.isEnabledFor(logging.DEBUG) else error
        self._drop_runner()
        self.kept.clear()
        gc.collect()  # what mlx-lm's own frames kept
        mx.clear_cache()
        pressed = isinstance(error, DoesNotFitError | MemoryError)
        if len(jobs) == 1 or pressed:
            for job in jobs:
                fail(job, error, self.tally)
            return []
        log.warning("a step of %d answers failed (%s): they go on one by one", len(jobs), error)
        for job in jobs:
            job.alone = True
        return jobs

    def _drop_runner(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            with suppress(Exception):
                runner.close()
        if self.loaded.session is None:  # which has ended its turn itself
            self.loaded.runtime.end_turn()


def fail(job: Job, error: BaseException, tally: Tally) -> None:
    """Ends an answer with an error."""
    refusal = refusal_of(error)
    log.error("request %s: %s: %s", job.id, type(error).__name__, error)
    tally.failed += 1
    tally.failed_in_a_row += refusal.status >= 500
    job.emit(Failed(refusal))
