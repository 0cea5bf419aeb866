"""One small model under faults: what may be done to it, what may befall it meanwhile, and what must hold afterwards.

`faults.py` draws deeds and faults for an hour, `test_interleavings.py` lets Hypothesis choose them.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import mlx.core as mx
import mlx_lm

import moe_mlx
from moe_mlx.conversation.audit import Auditor
from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.errors import DoesNotFitError, ExpertReadError, SlotsBusyError
from moe_mlx.expert_cache.residency import QUARANTINED
from moe_mlx.loading.pressure import PressureWatch
from tests.soak.subject import QUESTIONS, Subject, broken

STALL_FAULTS = ("stall in the graph", "stall in Python")
#: A checkpoint in place has no digests: only what is gone can be told.
FAULTS_IN_PLACE = ("none", "truncate", *STALL_FAULTS)
FAULTS = ("none", "flip", "truncate", "unlink", "swap", "folder", *STALL_FAULTS)
DEEDS = (
    "ask",
    "stop",
    "abandon",
    "lossy",
    "audit",
    "batch",
    "resize",
    "whole",
    "floor",
    "pressure",
    "switch",
    "reset",
    "forget",
    "nothing",
)


class Setup(NamedTuple):
    """How the model is loaded."""

    in_place: bool = False
    decode: str = "auto"
    io: str = "cached"
    prefetch: str = "off"
    evict: str = "lru"


@dataclass
class Ordeal:
    """A loaded model, and the counts of what happened to it."""

    subject: Subject
    setup: Setup
    chance: Random
    counts: collections.Counter[str] = field(default_factory=collections.Counter)

    def __post_init__(self) -> None:
        folder = self.subject.checkpoint if self.setup.in_place else self.subject.store
        model, tokenizer = moe_mlx.load(
            folder,
            expert_cache="50%",
            routing="exact",
            decode=self.setup.decode,
            io=self.setup.io,
            prefetch=self.setup.prefetch,
            evict=self.setup.evict,
            say=lambda line: None,
        )
        self.talk = Session(model, tokenizer, Sampling(max_tokens=10))
        self.runtime = self.talk.runtime
        self.way = self.runtime.decode_way
        layers = self.runtime.source.layers
        self.floor = f"{100 * max(layer.top_k / layer.experts for layer in layers):.4f}%"
        self.files = sorted(
            {piece.path for layer in layers for piece in self.runtime.source.byte_ranges(layer.index, 0)}
        )
        if not self.setup.in_place:
            self.files = sorted((folder / "experts").rglob("*.safetensors"))

    def close(self) -> None:
        """Ends it."""
        self.runtime.close()

    def turn(self, deed: str, fault: str) -> None:
        """Does one thing while one thing is wrong, then checks everything and asks for an exact answer."""
        if fault != "none" and self.chance.random() < 0.7:  # otherwise little is read
            self._floor()
            self._reset()
        what = f"{deed}, {fault}"
        damaged = None
        try:
            with self._befallen(fault) as damaged:
                getattr(self, f"_{deed}")()
        except ExpertReadError as error:
            assert fault != "none", f"{what}: {error}"
            assert damaged is None or error.path == damaged, f"{what}: {error}, but {damaged} was damaged"
            self.counts["turns ended by an error"] += 1
            self.counts["of them stalls"] += damaged is None
        except SlotsBusyError:
            assert fault in STALL_FAULTS, what
            self.counts["turns that found all slots stalled"] += 1
        self.counts["deeds"] += 1
        self.counts["faults"] += fault != "none"
        self.talk.between_tokens = self.talk.auditor = None
        self.runtime.set_routing(routing="exact")
        self.runtime.use_decode(self.way)
        self.check(what)
        self.compare(what)

    @contextmanager
    def _befallen(self, fault: str) -> Iterator[Path | None]:
        if fault == "none":
            yield None
        elif fault in STALL_FAULTS:
            try:
                with self._impatient() if fault == "stall in the graph" else self._slow_read():
                    yield None
            finally:
                self._await_stalled_reads()
        else:
            path = self.chance.choice(self.files)
            with broken(path, fault, self.chance.choice(self.files)):
                yield path

    @contextmanager
    def _impatient(self) -> Iterator[None]:
        """Hardly a disk answers within a nanosecond."""
        native = self.runtime.layers.native
        if native is None:
            yield
            return
        if any(layer._handle is None for layer in native.layers):
            self._ask(QUESTIONS[0])  # layers are handed to the graph at their first step
        self._limit_handles(1e-9)
        try:
            yield
        finally:
            self._limit_handles(self.runtime.layers.pool.stall_seconds)

    def _limit_handles(self, seconds: float) -> None:
        for layer in self.runtime.layers.native.layers if self.runtime.layers.native is not None else ():
            if layer._handle is not None:
                layer._handle.stall_seconds = seconds

    @contextmanager
    def _slow_read(self) -> Iterator[None]:
        """One of the next reads by Python hangs until the deed is over."""
        source, pool = self.runtime.source, self.runtime.layers.pool
        limit, read_into = pool.stall_seconds, source.read_into
        if self.chance.random() < 0.5:
            self.runtime.use_decode("readback")
        release, slow = threading.Event(), self.chance.randrange(8)
        calls = iter(range(1 << 30))

        def stalling(index: int, expert: int, buffers: Any) -> int:
            if next(calls) == slow:
                release.wait(30)
            return read_into(index, expert, buffers)

        source.read_into = stalling  # type: ignore[method-assign]
        pool.stall_seconds = 0.02
        try:
            yield
        finally:
            release.set()
            source.read_into = read_into  # type: ignore[method-assign]
            pool.stall_seconds = limit
            self._limit_handles(limit)  # those made meanwhile
            pool.wait_idle()

    def _await_stalled_reads(self) -> None:
        """Slots of reads that were given up come back when those reads end."""
        ends = time.monotonic() + 60
        while any(QUARANTINED in cache.table.used for cache in self.runtime.layers):
            assert time.monotonic() < ends, "a slot was never given back"
            self.runtime.drain()

    def check(self, what: str) -> None:
        """Slots and experts are a bijection, every slot holds its expert's own bytes, and the cap is kept."""
        self.runtime.drain()
        for cache in self.runtime.layers:
            cache.table.check()
            assert not cache.full or cache.table.owner.tolist() == list(range(cache.table.experts)), what
            for slot, expert in enumerate(cache.table.owner):
                held = None if expert < 0 else b"".join(cache.bank.buffers(slot))
                assert held is None or held == self.subject.experts[cache.spec.index, expert], (
                    f"{what}: layer {cache.spec.layer}, slot {slot} does not hold expert {expert}"
                )
        assert self.runtime.expert_cache_bytes == self.runtime.plan.expert_cache, what
        assert self.runtime.slots_per_layer == list(self.runtime.plan.slots), what
        if (native := self.runtime.layers.native) is not None and not mx.metal.is_available():
            native.streams.drain()  # the rest of a step that nobody took
            assert native.module.active_tasks() == 0, f"{what}: MLX waits for tasks that nobody ends"

    def compare(self, what: str) -> None:
        """Asks for an exact answer, which must be mlx-lm's."""
        text = self.chance.choice(QUESTIONS)
        tokens = self._ask(text)
        assert tokens == self.subject.expected[text], f"{what}: {tokens} instead of {self.subject.expected[text]}"
        self.counts["answers compared"] += 1

    def _ask(self, text: str | None = None, until: Callable[[int], bool] = lambda count: False) -> tuple[int, ...]:
        stop = threading.Event()
        text = self.chance.choice(QUESTIONS) if text is None else text
        for count, _ in enumerate(self.talk.answer(self.talk.encode([{"role": "user", "content": text}]), stop=stop)):
            if until(count):
                stop.set()
        assert self.talk.last is not None
        return self.talk.last.tokens

    def _nothing(self) -> None:
        pass

    def _stop(self) -> None:
        last = self.chance.randrange(6)
        self._ask(until=lambda count: count == last)

    def _abandon(self) -> None:
        """Whoever takes the tokens goes away in the middle."""
        prompt = self.talk.encode([{"role": "user", "content": self.chance.choice(QUESTIONS)}])
        answer = self.talk.answer(prompt)
        for _ in range(self.chance.randrange(1, 6)):
            next(answer)
        answer.close()

    def _lossy(self) -> None:
        how = self.chance.choice(("cache-prior", "max-rank", "cumulative"))
        self.runtime.set_routing(routing=how, route_lambda=0.7)
        self.talk.forget()
        self._ask()
        self.talk.forget()

    def _audit(self) -> None:
        self.talk.auditor = Auditor(self.talk.model, 2)
        self._lossy()

    def _batch(self) -> None:
        """Several conversations at once, by mlx-lm's own function."""
        prompts = [self.talk.encode([{"role": "user", "content": text}]) for text in self.chance.sample(QUESTIONS, 2)]
        mlx_lm.batch_generate(self.talk.model, self.talk.tokenizer, prompts, max_tokens=6)

    def _resize(self) -> None:
        self.runtime.resize(f"{self.chance.uniform(float(self.floor[:-1]), 100):.3f}%")
        self._ask()

    def _whole(self) -> None:
        self.runtime.resize("100%")
        self._ask()

    def _floor(self) -> None:
        self.runtime.resize(self.floor)

    def _pressure(self) -> None:
        """Memory is short for some tokens, then there is enough again."""
        told = [self.chance.choice((True, True, False, None)) for _ in range(16)]
        watch = PressureWatch(
            self.runtime,
            lambda line: None,
            sense=lambda: told.pop() if told else None,
            clock=iter(range(0, 9999, 25)).__next__,
        )
        self.talk.between_tokens = watch.between_tokens
        try:
            self._ask()
        except DoesNotFitError:
            self.counts["refusals under pressure at the floor"] += 1

    def _switch(self) -> None:
        self.runtime.use_decode("readback")
        self._ask()
        self.runtime.use_decode(self.way)
        self._ask()

    def _reset(self) -> None:
        moe_mlx.reset(self.talk.model)

    def _forget(self) -> None:
        self.talk.forget()
        self._ask()
