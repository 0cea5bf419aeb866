"""The expert cache of one MoE layer: its table, its slots, its policy and its log, brought together."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from moe_mlx.counts.event_log import DECODE, EventLog
from moe_mlx.errors import TWO_THREADS, DoesNotFitError, UsageError
from moe_mlx.expert_cache.graph import GraphDecode
from moe_mlx.expert_cache.lateness import Lateness
from moe_mlx.expert_cache.low_slots import bank_of
from moe_mlx.expert_cache.reading import ReaderPool
from moe_mlx.expert_cache.residency import COARSE, REST, Eviction, ResidencyTable
from moe_mlx.expert_cache.steps import DecodeEvent, StepCounter
from moe_mlx.routing.light import NONE_LIGHT, LightExperts
from moe_mlx.routing.names import DEFAULT_FORM
from moe_mlx.routing.policy import Choice, RoutingPolicy, Scores, choose, finite_range
from moe_mlx.store import ExpertLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from mlx import nn

    from moe_mlx.expert_cache.low_slots import Codes
    from moe_mlx.expert_cache.residency import Placement
    from moe_mlx.expert_cache.slots import SlotBank
    from moe_mlx.store.parts import ExpertLayout


class LayerCache:
    """What `CappedSwitch` asks: bring these experts in and tell me their slots."""

    def __init__(
        self,
        spec: ExpertLayer,
        table: ResidencyTable,
        bank: SlotBank,
        pool: ReaderPool,
        policy: RoutingPolicy,
        log: EventLog,
        counter: StepCounter,
        inner: nn.Module,
    ) -> None:
        self.spec, self.table, self.bank, self.pool = spec, table, bank, pool
        self.policy, self.log, self.counter, self.inner = policy, log, counter, inner
        self.codes: Codes | None = None
        self.form = DEFAULT_FORM  # what of an expert a coarse one is
        self.layout: ExpertLayout | None = None  # where the source can give experts at fewer bits
        self.spans: list[mx.array] = []
        self.selected: tuple[mx.array, mx.array] | None = None
        self.recorder: Callable[[DecodeEvent], None] | None = None
        self.scores_to_come: mx.array | None = None  # of an exactly routed decode step, for the eviction
        self.observed: tuple[mx.array, mx.array, mx.array] | None = None
        self._host_ns = 0
        #: The layer's router, `[..., D]` to `[..., E]`, where its family's is known; prefetch asks it for guesses.
        self.router: Callable[[mx.array], mx.array] | None = None
        #: The MoE layer after this one, and what this layer's router said of the layer before's input; for a recorder.
        self.next_layer: LayerCache | None = None
        self.guess_scores: mx.array | None = None
        #: Hears the router input `[1, D]` of each decode step, before it is routed; for measurements.
        self.on_input: Callable[[mx.array], None] | None = None
        self.lateness = Lateness(self)
        self.native: GraphDecode | None = None  # set while decode runs in the graph
        self.full = False  # every expert has been read into the slot of its own number: routing need not be looked at
        self._event = threading.RLock()
        self.aside: Callable[..., mx.array] | None = None  # computes in the layer's place and leaves no mark (audit)
        self.weighed: Callable[[mx.array], None] | None = None  # hears the router's weights of each call; to measure

    @property
    def lossy(self) -> bool:
        """Whether what is resident may change a decode step: a policy's choice, or who is late or coarse."""
        light = self.lateness.on or self.lateness.may_be_coarse
        return (not self.policy.lossless or light) and not self.full

    @property
    def wants_scores(self) -> bool:
        """Whether the eviction wants the router's scores of each decode step."""
        return self.table.eviction.uses_scores and not self.full

    @contextmanager
    def event(self) -> Iterator[None]:
        """Surrounds one event of the table, from its beginning to its last read.

        Raises:
            UsageError: another thread is in the middle of one.
        """
        if not self._event.acquire(blocking=False):
            raise UsageError(TWO_THREADS)
        try:
            yield
        finally:
            self._event.release()

    def record(self, scores: Scores, raw: Scores, weigh: Scores, exact: Sequence[int], touched: Sequence[int]) -> None:
        """Hands one decode event to the recorder, if there is one."""
        early, self.guess_scores = self.guess_scores, None
        if self.recorder is not None:
            guess = None if early is None else np.array(early).reshape(-1)
            step = self.counter.step
            self.recorder(DecodeEvent(self.spec.index, step, scores, raw, weigh, tuple(exact), tuple(touched), guess))

    def resident_mask(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Returns bool `[E]`: what is in memory now, whole or not."""
        return np.frombuffer(self.table.slot_of, dtype=np.int32) >= 0

    def whole_mask(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Returns bool `[E]`: what is in memory now as it is in the model."""
        slot_of = np.frombuffer(self.table.slot_of, dtype=np.int32)
        return (slot_of >= 0) & (slot_of < self.table.slots)

    def compute(self, x: mx.array, slots: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        """Computes experts in their slots.

        Whole and coarse rows are computed all, so that the graph's shapes are fixed; then it is chosen which count.

        Args:
            x: `[..., D]`.
            slots: `[..., k]`; low slots are numbered after the whole ones.
            *args: Passed on to the original module.
            **kwargs: Passed on to the original module.

        Returns:
            `[..., k, D]`.
        """
        low = self.bank.low if self.lateness.may_be_coarse else None
        if low is None:
            y: mx.array = self.inner(x, slots, *args, **kwargs)
            return y
        coarse = slots >= self.table.slots
        whole = self.inner(x, mx.where(coarse, 0, slots), *args, **kwargs)
        return mx.where(
            coarse[..., None], low.switch(x, mx.where(coarse, slots - self.table.slots, 0), *args, **kwargs), whole
        )

    def stored(self, experts: Iterable[int]) -> list[int]:
        """Returns those that have weights in the store; identity experts are numbered after them and have none."""
        return [expert for expert in experts if expert < self.table.experts]

    @property
    def in_graph(self) -> GraphDecode | None:
        """What runs the next decode step in the graph; None where Python does, as it must for a recorder."""
        return self.native if self.native is not None and self.recorder is None and self.native.ready else None

    def claim(self) -> None:
        """Waits for steps in the graph; to be called before Python reads or changes the table."""
        if not self.bank.allocated:  # rebuilding it was broken off
            self.rebuild(self.table.slots, self.table.low)
        if self.native is not None:
            self.bank.wait_for_queued()
            self.native.reclaim()

    def take_spans(self) -> None:
        """Adds the ranges observed since the last call, token by token, to the running mean."""
        if self.spans:
            spans, self.spans = self.spans, []
            for span in np.concatenate([np.array(rows, dtype=np.float32).reshape(-1) for rows in spans]).tolist():
                self.table.observe_range(span)

    def choose(self, scores: Scores, exact: list[int], raw: Scores) -> Choice:
        """Applies the policy to one token, whose range counts first.

        Args:
            scores: float32 `[E]` that the model ranks by.
            exact: The model's own choice in its own order.
            raw: float32 `[E]`, the same scores before groups were masked; the range is taken of these.
        """
        started = time.perf_counter_ns()
        self.take_spans()
        self.tell_eviction(raw)
        delta = self.table.observe_range(finite_range(raw))
        resident = self.resident_mask()
        if scores.size > resident.size:  # what needs no memory is always there
            resident = np.append(resident, np.ones(scores.size - resident.size, dtype=np.bool_))
        choice = choose(self.policy, scores, exact, resident, delta)
        self._host_ns = time.perf_counter_ns() - started
        return choice

    def tell_eviction(self, raw: Scores) -> None:
        """Gives the eviction the scores of the token to come, where it wants them.

        Args:
            raw: float32 `[E]`, before groups were masked.
        """
        if self.wants_scores:
            self.table.eviction.observe(self.table, raw.tolist())

    def decode(
        self,
        experts: Sequence[int],
        touch_order: Sequence[int],
        swapped: int,
        moved: float,
        light: LightExperts = NONE_LIGHT,
    ) -> list[int]:
        """Brings one token's experts in, then those that an earlier layer of the same call has left behind.

        Args:
            experts: The chosen, in computing order; may repeat.
            touch_order: The same, distinct, the heaviest first.
            swapped: How many of them exact routing would not have chosen.
            moved: Exact router weight of the displaced.
            light: Those whose reads a later layer waits for, and those whose high bits do.

        Returns:
            The slots of `experts`; of late ones the heaviest expert's.

        Raises:
            ExpertReadError: a read failed. The table is consistent, the failed slot empty.
        """
        awaited = 0
        with self.event():
            started = time.perf_counter_ns()
            if self.table.low:
                self.bank.wait_for_queued()  # experts move between slots as the event begins
            admission = self.table.begin(touch_order, coarse=light.coarse)
            host, self._host_ns = self._host_ns + time.perf_counter_ns() - started, 0
            waited = 0
            behind = [placement for placement in admission.misses if placement.expert in light.late]
            if admission.misses:
                self.bank.wait_for_queued()
                ahead = [placement for placement in admission.misses if placement.expert not in light.late]
                awaited = len(ahead)
                reads = self.pool.start(self.spec.index, self.table, self.bank, [*ahead, *behind])
                waited = reads.finish(awaited) if ahead else 0
            slot_of = self.table.slot_of
            heaviest = slot_of[touch_order[0]] if touch_order else 0
            if self.lateness.may_owe:
                self.lateness.reading(reads if behind else None, behind, heaviest)
        self.table.count(touch_order, [placement.expert for placement in admission.misses], light.late)
        hits, misses = len(admission.hits), len(admission.misses)
        waited += self.lateness.await_earlier()
        self.log.write(
            self.counter.step,
            DECODE,
            tokens=1,
            hits=hits,
            misses=misses,
            swapped=swapped,
            bytes_read=sum(map(self.nbytes_of, admission.misses)),
            wait_ns=waited,
            read_backs=1,
            choices=hits + misses,
            waits=1,
            host_ns=host,
            late=len(light.late),
            late_weight_ppb=int(light.late_weight * 1e9),
            read_waits=int(awaited > 0),
            waits_saved=int(misses > 0 and not awaited),
            coarse=len(light.coarse),
            coarse_weight_ppb=int(light.coarse_weight * 1e9),
            **self.parts_of(admission.misses),
            weight_moved=moved,
        )
        place = {expert: heaviest for expert in light.late}
        return [place.get(expert, slot_of[expert]) if expert < self.table.experts else 0 for expert in experts]

    def nbytes_of(self, placement: Placement) -> int:
        """Returns the bytes that are read for a placement."""
        if placement.part == REST and self.bank.low is not None:
            return self.bank.low.rest_nbytes
        if placement.part == COARSE and self.bank.low is not None:
            return self.bank.low.bank.expert_nbytes
        return self.pool.source.stored_nbytes(self.spec.index, placement.expert)

    def parts_of(self, misses: Sequence[Placement]) -> dict[str, int]:
        """Returns what of some reads were no whole experts: fields of an event."""
        rest = [self.nbytes_of(placement) for placement in misses if placement.part == REST]
        coarse = [self.nbytes_of(placement) for placement in misses if placement.part == COARSE]
        return {"promotions": len(rest), "rest_bytes": sum(rest), "coarse_bytes": sum(coarse)}

    def fill(self, experts: Sequence[int], coarse: Collection[int] = ()) -> int:
        """Reads experts in outside any step (warm-up, resizing, a full layer at load) and returns the bytes read.

        Args:
            experts: Distinct, in touch order.
            coarse: Those of them whose high bits are read.

        Raises:
            ExpertReadError: a read failed. What arrived is in, the failed slot empty.
        """
        with self.event():
            self.bank.wait_for_queued()
            admission = self.table.begin(experts, coarse=coarse)
            bytes_read, _ = self.pool.read(self.spec.index, self.table, self.bank, admission.misses)
        return bytes_read

    def fill_whole(self) -> int:
        """Reads every expert into the slot of its own number, all of them empty, and returns the bytes read.

        Raises:
            ExpertReadError: as from `fill`; the layer then looks its slots up like any other.
        """
        bytes_read = self.fill(range(self.table.experts))
        self.full = True
        return bytes_read

    def cut_by(self, codes: Codes | None) -> None:
        """Has codes cut and joined by something faster, from now on; None for what does it anyway."""
        self.codes = codes
        if self.bank.low is not None and codes is not None:
            self.bank.low.codes = codes

    def empty(self) -> None:
        """Empties residency, running range and counts; of a layer that holds all its experts the latter two."""
        self.spans.clear()
        self.selected = self.observed = self.scores_to_come = None
        self.lateness.clear()
        if self.full:
            self.table.reset_range()
            self.table.reset_counts()
        else:
            self.table.reset()

    def rebuild(self, slots: int, low: int = 0, eviction: Eviction | None = None) -> None:
        """Gives the bank's memory back and makes another, empty one; no work that reads slots may be queued.

        Args:
            slots: Whole slots.
            low: Low slots.
            eviction: Which expert gives way from then on; by default as before.

        Raises:
            DoesNotFitError: the memory cannot be had; the layer then has as many slots as before, or top_k.
        """
        before = self.table.slots, self.table.low
        self.table, self.full = self.table.resized(slots, eviction, low), False  # from here on all has to be read anew
        self.bank.free(self.inner)
        mx.clear_cache()
        refusal: Exception | None = None
        for counts in ((slots, low), before, (self.spec.top_k, 0)):
            try:
                bank = bank_of(self.spec, *counts, self.inner, self.layout, self.form)
            except (MemoryError, RuntimeError) as error:  # the latter is how MLX says it
                refusal = refusal or error
                continue
            if counts != (slots, low):
                self.table = self.table.resized(counts[0], low=counts[1])
            self.bank, self.table.mover = bank, bank.low
            self.cut_by(self.codes)
            break
        if refusal is not None:
            raise DoesNotFitError(f"layer {self.spec.layer}: no memory for {slots} slots: {refusal}")
