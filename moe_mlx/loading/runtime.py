"""The expert cache behind a loaded model: its layers, totals, settings, and what may be changed while it lives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
from mlx import nn

from moe_mlx.counts.ledger import Ledger, Stats
from moe_mlx.counts.reads import ReadTotals
from moe_mlx.errors import ExpertReadError, UsageError
from moe_mlx.expert_cache.eviction import make_eviction
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.reading import ReaderPool
from moe_mlx.expert_cache.steps import StepCounter
from moe_mlx.history.keeper import HistoryKeeper
from moe_mlx.history.warmup import WarmCounts, Warmup
from moe_mlx.native.bridge import NativeDecode
from moe_mlx.planning.budget import MemoryPlan, cache_bytes, parse_cap, plan_memory
from moe_mlx.planning.prefetch import Prefetch
from moe_mlx.planning.slot_share import Curve, shared_by
from moe_mlx.routing.settings import RoutingSettings
from moe_mlx.store import ExpertSource
from moe_mlx.system.memory import room_beside
from moe_mlx.system.metal import comfortable_bytes


@dataclass
class Runtime:
    """Everything that belongs to one loaded model.

    Attributes:
        model: mlx-lm's model, its switches replaced.
        config: The checkpoint's config.
        source: Where experts are read from.
        layers: The MoE layers, in order.
        routing: The routing asked for.
        plan: The memory plan in force.
        routed: Whether every MoE layer has an adapter, so that a lossy policy takes effect.
        decode_way: "native" (in the graph) or "readback".
        decode_reason: Why that way, in a few words.
        native: What runs decode in the graph, where that can be had.
        prefetch: How decode in the graph reads ahead; None where it does not.
        history: What adds this model's counts to its history; None where none is kept.
        warmup: What is left of a warm-up that waits for idle time.
        warm_counts: What warm-up has read since loading or the last reset.
        curves: What slots are shared by, at loading and at every resizing; None where they are shared evenly.
    """

    model: nn.Module
    config: dict[str, Any]
    source: ExpertSource
    pool: ReaderPool
    ledger: Ledger
    counter: StepCounter
    layers: list[LayerCache]
    routing: RoutingSettings
    evict: str
    plan: MemoryPlan
    routed: bool
    filled_bytes: int = 0
    decode_way: str = "readback"
    decode_reason: str = ""
    native: NativeDecode | None = None
    prefetch: Prefetch | None = None
    history: HistoryKeeper | None = None
    warmup: Warmup | None = None
    warm_counts: WarmCounts = field(default_factory=WarmCounts)
    curves: tuple[Curve, ...] | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.stats = Stats(self.ledger, ReadTotals(self.pool.log, lambda: self.source.access.way))
        self.counter.on_begin += [self.ledger.collect, self._tell]

    @property
    def io_way(self) -> str:
        """How experts are read: "cached", "direct" (past the page cache), or "dropped" (cached, then dropped)."""
        return self.source.access.way

    @property
    def io_reason(self) -> str:
        """Why that way, in a few words."""
        return self.source.access.reason

    @property
    def warmed(self) -> int:
        """Experts that warm-up has read since loading or the last reset, which no other count includes."""
        return self.warm_counts.experts

    @property
    def warmed_bytes(self) -> int:
        """Bytes of those."""
        return self.warm_counts.nbytes

    @property
    def slots_per_layer(self) -> list[int]:
        """Slots of each MoE layer."""
        return [cache.table.slots for cache in self.layers]

    @property
    def expert_cache_bytes(self) -> int:
        """Bytes of all slot banks."""
        return sum(cache.bank.nbytes for cache in self.layers)

    @property
    def resident_share(self) -> float:
        """Share of the routed experts that have a slot."""
        return sum(self.slots_per_layer) / sum(layer.experts for layer in self.source.layers)

    def resident_experts(self) -> list[tuple[int, int]]:
        """Returns the experts that have a slot now: pairs of MoE ordinal and expert."""
        self.drain()
        return [(cache.spec.index, expert) for cache in self.layers for expert in cache.table.owner if expert >= 0]

    def drain(self) -> None:
        """Waits for all queued work that reads slots.

        What a queued step ran into is raised by the model's next call: its token, and what it left in a KV cache, would
        be taken for good otherwise.
        """
        for cache in self.layers:
            try:
                cache.bank.settle()
            except ExpertReadError as error:
                if self.native is not None:
                    self.native.untold = error
        if self.native is not None and self.native.failed:
            self.native.untold = self.native.recover()
        mx.synchronize()
        for cache in self.layers:
            cache.table.mend()
        if self.native is not None:
            for native in self.native.layers:
                native.reclaim()

    def end_turn(self) -> ExpertReadError | None:
        """Waits as `drain` does, where nobody will take a step that is queued.

        Returns:
            What such a step ran into, which is thereby told: the KV cache that it wrote to is no good.
        """
        self.drain()
        return None if self.native is None else self.native.take_untold()

    def _tell(self) -> None:
        if self.native is not None and (error := self.native.take_untold()) is not None:
            raise error

    def use_decode(self, way: str) -> None:
        """Changes between "native" and "readback", between tokens; both go on from the same tables.

        Raises:
            UsageError: "native" cannot be had here; `decode_reason` says why.
        """
        if way not in ("native", "readback"):
            raise UsageError(f"unknown decode {way!r}: choose native or readback")
        if way == "native" and self.native is None:
            raise UsageError(f"decode in the graph is not available here: {self.decode_reason}")
        with self.lock:
            self.drain()
            self.ledger.collect(closing=True)
            for place, cache in enumerate(self.layers):
                cache.native = self.native.layers[place] if self.native is not None and way == "native" else None
            self.ledger.lag = 2 if way == "native" else 0  # mlx-lm builds one step while another runs
            self.decode_way = way

    def reset(self) -> None:
        """Empties residency, running ranges, counters and records; layers that hold all their experts keep them.

        What was counted goes to the history first. Warm-up is not repeated.
        """
        with self.lock:
            self.end_turn()
            if self.native is not None:
                self.native.forget_hints()
            if self.history is not None:
                self.history.absorb()
            self.warmup = None
            self.warm_counts.reset()
            for cache in self.layers:
                cache.spans.clear()
                cache.selected = cache.observed = None
                if cache.full:
                    cache.table.reals[cache.table.RANGE_SUM] = 0.0
                    cache.table.whole[cache.table.RANGE_TOKENS] = 0
                    cache.table.reset_counts()
                else:
                    cache.table.reset()
            if self.history is not None:
                self.history.begin()
            self.counter.last_index = -1
            self.stats.reset()

    def set_routing(self, **changes: Any) -> RoutingSettings:
        """Changes routing between tokens; names as in `RoutingSettings`.

        Raises:
            UsageError: a value or a name that cannot be taken.
        """
        unknown = set(changes) - set(RoutingSettings.__dataclass_fields__)
        if unknown:
            raise UsageError(f"unknown routing setting {sorted(unknown)[0]!r}")
        settings = replace(self.routing, **changes)
        with self.lock:
            self.drain()
            for cache in self.layers:
                cache.policy = settings.policy(cache.spec.top_k, cache.spec.experts) if self.routed else cache.policy
            self.routing = settings
        return settings

    def plan_for(self, expert_cache: str | int) -> MemoryPlan:
        """Returns the plan that `resize` would put in force, and changes nothing.

        Raises:
            UsageError: no cap can be read from `expert_cache`.
            DoesNotFitError: it is below the floor or above what fits.
        """
        plan = plan_memory(
            self.source.layers,
            parse_cap(expert_cache),
            resident_weights=self.plan.resident_weights,
            kv_cache=self.plan.kv_cache,
            per_layer_extra=self.plan.extra,
            available=room_beside(self.plan.resident_weights + self.expert_cache_bytes),
            held=self.expert_cache_bytes,
            comfortable=comfortable_bytes(),
        )
        return shared_by(plan, self.source.layers, self.curves)

    def resize(self, expert_cache: str | int) -> MemoryPlan:
        """Changes the cap between tokens: layer by layer the bank is freed, rebuilt, and its hottest experts reread.

        The old cap or the new one, whichever is larger, is never exceeded on the way.

        Raises:
            UsageError: no cap can be read from `expert_cache`.
            DoesNotFitError: it is below the floor or above what fits, and nothing was changed; or memory that was
                there when it was asked for has gone since, and some layers have slots as before.
        """
        with self.lock:
            plan = self.plan_for(expert_cache)
            self.drain()
            self.ledger.collect(closing=True)
            order = sorted(
                range(len(self.layers)), key=lambda index: plan.slots[index] - self.layers[index].table.slots
            )
            try:
                for index in order:
                    self._rebuild(self.layers[index], plan.slots[index])
            finally:  # what is there, whatever came in between
                slots = tuple(self.slots_per_layer)
                self.plan = replace(plan, slots=slots, expert_cache=cache_bytes(self.source.layers, slots))
            return plan

    def _rebuild(self, cache: LayerCache, slots: int) -> None:
        """Gives a layer another bank. A file that cannot be read is told by the step that needs it, not here."""
        every = slots == cache.table.experts
        if slots == cache.table.slots and cache.full == every:
            return
        hottest = list(reversed(cache.table.hottest()[:slots]))
        if self.native is not None:
            self.native.release(cache)
        cache.rebuild(slots, make_eviction(self.evict))
        with suppress(ExpertReadError):
            self.filled_bytes += cache.fill_whole() if every else cache.fill(hottest)

    def warm_while_idle(self, wanted_elsewhere: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Goes on with a warm-up that waits for idle time, until it is done or something better is to be done.

        Args:
            wanted_elsewhere: Asked between batches; True ends it at once, for good if a step then runs.
            say: Gets one line when it is done.
        """
        warmup = self.warmup
        if warmup is None or not warmup.pending:
            return
        if any(cache.lossy for cache in self.layers):  # the routing was changed since
            self.warmup = None
            return
        while warmup.pending and not wanted_elsewhere():
            with self.lock:
                warmup.step()
        if not warmup.pending and (line := warmup.summary()):
            self.warmup = None
            say(line)

    def fill_whole_layers(self) -> None:
        """Reads in every expert of the layers that have a slot for each."""
        for cache in self.layers:
            if cache.table.slots == cache.table.experts:
                self.filled_bytes += cache.fill_whole()

    def close(self) -> None:
        """Waits for queued work, keeps the history, ends the reader threads and closes the files."""
        self.drain()
        if self.history is not None:
            self.history.save(at_once=True)
        if self.native is not None:
            self.native.close()
        self.pool.close()
        self.source.close()
