"""One thread that owns MLX: takes answers to be made in turn, makes them, and outlives whatever befalls one of them.

An exception ends the answer that it belongs to. Where several were in the same step nobody can say whose it was: each
of them goes on by itself then, from the tokens it has, and the one that fails alone is told.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import mlx.core as mx

from moe_mlx.errors import DoesNotFitError
from moe_mlx.loading.pressure import PressureWatch
from moe_mlx.serving.answer_steps import AnswerSteps
from moe_mlx.serving.job import Failed, Job, Reading
from moe_mlx.serving.kept_prompts import KeptPrompts
from moe_mlx.serving.limits import Limits
from moe_mlx.serving.loaded import Loaded
from moe_mlx.serving.refusal import RefusalError, refusal_of
from moe_mlx.serving.runners import AloneRunner, Drawn, Read, TogetherRunner, Worth
from moe_mlx.system.threads import join_whole

log = logging.getLogger("moe_mlx.serve")

#: Seconds between two looks of an idle thread, and between two notices to those who wait.
IDLE_SECONDS, NOTICE_SECONDS = 0.5, 1.0


class Engine:
    """Makes answers. `submit` and the figures may be used from any thread.

    Attributes:
        loaded: The model, once `start` has returned.
        beat: When the thread last began a step (monotonic seconds).
        failed_in_a_row: Answers that ended in an error of the server's since the last good one.
        answered: Answers that ended well.
        failed: Answers that ended in an error.
        generated: Tokens of all answers.
    """

    def __init__(self, opener: Callable[[], Loaded], limits: Limits) -> None:
        self._opener, self.limits = opener, limits
        self.loaded: Loaded
        self.beat = time.monotonic()
        self.failed_in_a_row = self.answered = self.failed = self.generated = 0
        self.death: BaseException | None = None
        self._refusing: RefusalError | None = None
        self._waiting: deque[Job] = deque()
        self._wake = threading.Condition()
        self._over = False
        self._ready = threading.Event()
        self._trouble: BaseException | None = None
        self._runner: TogetherRunner | AloneRunner | None = None
        self._noticed = 0.0
        self._thread = threading.Thread(target=self._run, name="moe-mlx-engine", daemon=True)

    def start(self) -> None:
        """Loads the model and returns when it can answer.

        Raises:
            Exception: what loading raised.
        """
        self._thread.start()
        self._ready.wait()
        if self._trouble is not None:
            raise self._trouble

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive() and self.death is None

    @property
    def waiting(self) -> int:
        """Answers that wait for their turn."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers under way."""
        runner = self._runner
        return 0 if runner is None else len(runner.jobs)

    @property
    def phase(self) -> str:
        """What is being done: "idle", "prefill" or "decode"."""
        runner = self._runner
        if runner is None or not runner.jobs:
            return "idle"
        return "prefill" if runner.reading() else "decode"

    @property
    def kept(self) -> KeptPrompts:
        """Prompt caches of earlier answers."""
        return self._kept

    def submit(self, *jobs: Job) -> None:
        """Puts answers at the end of the queue, all of them or none.

        Raises:
            RefusalError: the queue is full, or the server is ending.
        """
        with self._wake:
            if self._refusing is not None:
                raise self._refusing
            if not self.alive:
                raise RefusalError(503, "the server cannot answer any more; it has to be started again")
            waiting = sum(not job.left.is_set() for job in self._waiting)
            if waiting + len(jobs) > self.limits.waiting:
                raise RefusalError(429, f"{waiting} requests are waiting already: try again later")
            self._waiting.extend(jobs)
            self._wake.notify()

    def refuse(self, refusal: RefusalError) -> None:
        """Takes no further answers."""
        with self._wake:
            self._refusing = refusal

    def end_all(self, refusal: RefusalError) -> None:
        """Ends what waits and what is under way, at the next step."""
        with self._wake:
            self._refusing = refusal
            for job in [*self._waiting, *(self._runner.jobs if self._runner is not None else ())]:
                job.left.set()
                job.emit(Failed(refusal))
            self._wake.notify()

    def stop(self, seconds: float = 10.0) -> None:
        """Ends the thread, with what is under way, and waits for it."""
        with self._wake:
            self._over = True
            self._wake.notify()
        join_whole(self._thread, seconds)

    def _run(self) -> None:
        try:
            self.loaded = self._opener()
            self._steps = AnswerSteps(self.loaded)
            self._kept = KeptPrompts(
                self.loaded.model, self.loaded.kept_sequences, self.loaded.kept_bytes, self.loaded.store
            )
            self._watch = PressureWatch(self.loaded.runtime, log.warning)
            self._batches = self.loaded.batches()
        except BaseException as error:
            self._trouble = error
            return
        finally:
            self._ready.set()
        try:
            while not self._over:
                self._turn()
        except BaseException as error:
            self.death = error
            log.critical("the generating thread ended: %r", error, exc_info=error)
            self.end_all(RefusalError(503, "the server cannot answer any more; it has to be started again"))
        finally:
            with suppress(Exception):
                self._drop_runner()
            with suppress(Exception):
                self._kept.save(at_once=True)
            with suppress(Exception):
                self.loaded.runtime.close()

    def _turn(self) -> None:
        self.beat = time.monotonic()
        try:
            self._admit()
        except Exception as error:  # nobody's answer: what is under way goes on
            log.exception("an answer could not be begun: %s", error)
        if self._runner is None:
            self._kept.save()
            with self._wake:
                if not self._waiting and not self._over:
                    self._wake.wait(IDLE_SECONDS)
            return
        try:
            self._between()
            for event in self._runner.step():
                self._take(event)
            self._drop_gone()
        except Exception as error:
            self._recover(error)
        if self._runner is not None and not self._runner.jobs:
            self._drop_runner()

    # Beginning answers

    def _admit(self) -> None:
        with self._wake:
            gone = [job for job in self._waiting if job.left.is_set()]
            for job in gone:
                self._waiting.remove(job)
        self._notice()
        while self._waiting and self._fits(self._waiting[0]):
            with self._wake:
                job = self._waiting.popleft()
            try:
                self._begin(job)
            except Exception as error:
                self._fail(job, error)

    def _notice(self) -> None:
        now = time.monotonic()
        if self._waiting and now - self._noticed > NOTICE_SECONDS:
            self._noticed = now
            for job in list(self._waiting):
                job.emit(Reading(0, 0))

    def _alone(self, job: Job) -> bool:
        return job.alone or job.drawing.seed is not None or not self._batches

    def _fits(self, job: Job) -> bool:
        """Tells whether a job may begin: rows of one batch are as long as the longest of them."""
        runner = self._runner
        if runner is None or not runner.jobs:
            return True
        if isinstance(runner, AloneRunner) or self._alone(job) or runner.reading():
            return False
        jobs = runner.jobs
        longest = max([job.need, *(other.need for other in jobs)])
        return len(jobs) < self.limits.at_once and (len(jobs) + 1) * longest <= self.loaded.room.planned

    def _begin(self, job: Job) -> None:
        if self._runner is not None and not self._runner.jobs:
            self._drop_runner()
        jobs = [job] if self._runner is None else [*self._runner.jobs, job]
        longest = max(one.need for one in jobs)
        room = self.loaded.room
        self._kept.trim((room.planned - len(jobs) * longest) * room.token_nbytes)
        start = self._steps.begin(job, self._kept)
        if self._alone(job):
            self._runner = AloneRunner(
                self.loaded.model, self.loaded.draft, room.chunk, self.loaded.caching, self._between_chunks, start
            )
            self._runner.watch(self._take)
            return
        if self._runner is None:
            self._runner = TogetherRunner(self.loaded.model, room.chunk, self.limits.at_once)
        assert isinstance(self._runner, TogetherRunner)
        self._runner.add(start)
        for one in jobs:
            one.shared_by = max(one.shared_by, len(jobs))

    # What a step gives

    def _take(self, event: Drawn | Read | Worth) -> None:
        if isinstance(event, Worth):
            self._kept.keep(event)
            return
        job = event.job
        if job.left.is_set():
            return
        try:
            if isinstance(event, Read):
                job.emit(Reading(event.done, event.total))
                return
            self.generated += 1
            if self._steps.drawn(job, event):
                self._end(job)
        except Exception as error:
            self._out(job, keep=False)
            self._fail(job, error)

    def _end(self, job: Job) -> None:
        worth = self._out(job, keep=not job.grammar)
        usage = self._steps.account(job)
        if worth is not None and self._steps.queued_failure() is None:
            mx.eval([cache.state for cache in worth.cache])
            self._kept.keep(worth)
        self.answered += 1
        self.failed_in_a_row = 0
        self._steps.end(job, usage)

    def _drop_gone(self) -> None:
        if self._runner is not None:
            for job in list(self._runner.jobs):
                if job.left.is_set():
                    self._out(job, keep=True)

    def _out(self, job: Job, *, keep: bool) -> Worth | None:
        assert self._runner is not None
        if isinstance(self._runner, AloneRunner):
            self._steps.leave(job)
        return self._runner.take_out(job, keep=keep)

    # What goes wrong

    def _between(self) -> None:
        """Looks for memory pressure; kept prompts go before the expert cache is at its end."""
        try:
            self._watch.between_tokens()
        except DoesNotFitError:
            if not len(self._kept):
                raise
            log.warning("memory pressure: %d prompt caches are let go", len(self._kept))
            self._kept.clear()
            mx.clear_cache()

    def _between_chunks(self) -> None:
        self.beat = time.monotonic()
        self._between()

    def _recover(self, error: Exception) -> None:
        """Throws away what a failed step may have touched; several that were in it go on one by one."""
        assert self._runner is not None
        jobs = [job for job in self._runner.jobs if not job.left.is_set()]
        for job in self._runner.jobs:
            self._steps.leave(job)
        error = error.with_traceback(None) if not log.isEnabledFor(logging.DEBUG) else error
        self._drop_runner()
        self._kept.clear()
        gc.collect()  # what mlx-lm's own frames kept
        mx.clear_cache()
        pressed = isinstance(error, DoesNotFitError | MemoryError)
        if len(jobs) == 1 or pressed:
            for job in jobs:
                self._fail(job, error)
            return
        log.warning("a step of %d answers failed (%s): they go on one by one", len(jobs), error)
        with self._wake:
            for job in reversed(jobs):
                job.alone = True
                self._waiting.appendleft(job)

    def _fail(self, job: Job, error: BaseException) -> None:
        refusal = refusal_of(error)
        log.error("request %s: %s: %s", job.id, type(error).__name__, error)
        self.failed += 1
        self.failed_in_a_row += refusal.status >= 500
        job.emit(Failed(refusal))

    def _drop_runner(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            with suppress(Exception):
                runner.close()
        self.loaded.runtime.end_turn()
