"""One thread that owns MLX: takes answers to be made in turn, makes them, and outlives whatever befalls one of them.

It has one model at a time. An answer that another model is asked for waits until nothing is under way; that model is
then looked at while the first is still there, and takes its place only if it can be loaded. Should its weights turn out
to be unreadable all the same, the first is loaded again; should that fail too, whoever asks next has it tried again.
"""

from __future__ import annotations

import gc
import logging
import threading
import time

import mlx.core as mx

from moe_mlx.errors import DoesNotFitError, MachinesError
from moe_mlx.serving.answering import Answering
from moe_mlx.serving.job import Failed, Job
from moe_mlx.serving.kept_prompts import KeptPrompts
from moe_mlx.serving.limits import Limits
from moe_mlx.serving.loaded import Loaded, Opening
from moe_mlx.serving.refusal import RefusalError, refusal_of
from moe_mlx.serving.tally import Tally
from moe_mlx.serving.waiting import Waiting
from moe_mlx.system.threads import join_whole

log = logging.getLogger("moe_mlx.serve")

#: Seconds between two looks of an idle thread.
IDLE_SECONDS = 0.5
OVER = RefusalError(503, "the server cannot answer any more; it has to be started again")


class Engine:
    """Makes answers. `submit` and the figures may be used from any thread.

    Attributes:
        tally: What was done since the start.
        death: What ended the thread though nobody asked for it.
        opening: The model that is loaded, or was last.
    """

    def __init__(self, opening: Opening, limits: Limits) -> None:
        """Prepares; nothing is loaded yet.

        Args:
            opening: The model to begin with.
            limits: What clients may ask.
        """
        self.limits, self.tally = limits, Tally()
        self.death: BaseException | None = None
        self.opening = opening
        self._answering: Answering | None = None
        self._waiting = Waiting(limits.waiting)
        self._beat = time.monotonic()
        self._over = self._loading = False
        self._last_word = OVER
        self._ready = threading.Event()
        self._trouble: BaseException | None = None
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
    def loaded(self) -> Loaded | None:
        """The model; None while another one takes its place."""
        answering = self._answering
        return None if answering is None else answering.loaded

    @property
    def kept(self) -> KeptPrompts | None:
        """Prompt caches of its earlier answers."""
        answering = self._answering
        return None if answering is None else answering.kept

    @property
    def beat(self) -> float:
        """When the thread last began something (monotonic seconds)."""
        answering = self._answering
        return self._beat if answering is None else max(self._beat, answering.beat)

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive() and self.death is None

    @property
    def last_word(self) -> RefusalError | None:
        """What every client is told from now on, where no answer can be had any more."""
        return None if self.death is None else self._last_word

    @property
    def waiting(self) -> int:
        """Answers that wait for their turn."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers under way."""
        return len(self.jobs)

    @property
    def jobs(self) -> list[Job]:
        """The answers under way."""
        answering = self._answering
        return [] if answering is None else answering.jobs

    @property
    def phase(self) -> str:
        """What is being done: "idle", "prefill", "decode", "loading", or "empty" where no model is there."""
        answering = self._answering
        if answering is None or self._loading:
            return "loading" if self._loading else "empty"
        return answering.phase

    def submit(self, *jobs: Job) -> None:
        """Puts answers at the end of the queue, all of them or none.

        Raises:
            RefusalError: the queue is full, or the server is ending.
        """
        if not self.alive:
            raise self._last_word
        self._waiting.add(jobs)

    def refuse(self, refusal: RefusalError) -> None:
        """Takes no further answers."""
        self._waiting.close(refusal)

    def end_all(self, refusal: RefusalError) -> None:
        """Ends what waits and what is under way, at the next step."""
        self._waiting.end_all(refusal)
        for job in self.jobs:
            job.left.set()
            job.emit(Failed(refusal))

    def stop(self, seconds: float = 10.0) -> None:
        """Ends the thread, with what is under way, and waits for it."""
        self._over = True
        self._waiting.wake()
        join_whole(self._thread, seconds)

    def _run(self) -> None:
        try:
            self._load(self.opening)
        except BaseException as error:
            self._trouble = error
            return
        finally:
            self._ready.set()
        try:
            while not self._over and self.death is None:
                self._turn()
        except BaseException as error:
            self.death = error
            log.critical("the generating thread ended: %r", error, exc_info=error)
            self.end_all(OVER)
        finally:
            self._let_go()

    def _apart(self, error: MachinesError) -> None:
        """Ends all answers because the machines came apart; from any thread, MLX may wait for one of them for ever."""
        if self.death is None:
            self.death, self._last_word = error, refusal_of(error)
            log.critical("%s; no answer can be had any more: start this again on all machines", error)
            self.end_all(self._last_word)

    def _turn(self) -> None:
        self._beat = time.monotonic()
        if self._answering is not None and (trouble := self._answering.trouble) is not None:
            self._apart(trouble)
            return
        self._admit()
        if (answering := self._answering) is not None and answering.jobs:
            self._waiting.put_back(answering.step())
            return
        if answering is not None:
            answering.kept.save()
        self._waiting.rest(IDLE_SECONDS)

    def _admit(self) -> None:
        """Begins what waits, in order, as far as it fits beside what is under way."""
        self._waiting.notice()
        while (job := self._waiting.first()) is not None and not self._over:
            answering, wanted = self._answering, job.opening or self.opening
            if answering is not None and wanted is self.opening:
                if not answering.fits(job):
                    return
                answering.begin(self._waiting.take())
                continue
            if answering is not None and answering.jobs:
                return
            self._waiting.take()
            del answering
            refusal = self._change(wanted)
            if refusal is None and self._answering is not None:
                self._answering.begin(job)
            elif refusal is not None:
                self.tally.failed += 1  # but nothing is wrong with what answers here
                job.emit(Failed(refusal))

    def _change(self, opening: Opening) -> RefusalError | None:
        """Loads a model in the place of the one that is there, if any; returns why that was not possible."""
        before = self.opening
        self._loading = True
        try:
            if self._answering is not None:
                opening.rehearse(self._answering.loaded.runtime.held + self._answering.kept.nbytes)
                self._let_go()
            self._load(opening)
        except Exception as error:
            refusal = _not_loaded(error)
        else:
            self.tally.changes += 1
            return None
        finally:
            self._loading = False
        if self._answering is None and before is not opening:
            try:
                self._load(before)
            except Exception as error:  # whoever asks next has it tried again
                log.error("nor can the one that was there before: %s", error)
        return refusal

    def _load(self, opening: Opening) -> None:
        _free()
        loaded = opening.open()
        if loaded.session is not None:
            loaded.session.meeting.on_break = self._apart
        self._answering = Answering(loaded, self.limits.at_once, self.tally)
        self.opening = opening
        self._beat = time.monotonic()

    def _let_go(self) -> None:
        answering, self._answering = self._answering, None
        if answering is not None:
            answering.close()


def _free() -> None:
    """Gives memory of a model that nothing refers to back to the system."""
    gc.collect()
    mx.clear_cache()


def _not_loaded(error: Exception) -> RefusalError:
    """Returns what a client is told of a model that cannot be loaded, the same whatever lies where it should be."""
    log.error("a model that a client asked for cannot be loaded: %s", error)
    if isinstance(error, DoesNotFitError | MemoryError):
        return RefusalError(503, "there is no memory for this model here", code="model_does_not_fit")
    return RefusalError(500, "this model cannot be loaded; the server's log says why", code="model_not_loadable")
