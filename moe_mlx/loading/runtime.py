"""The expert cache behind a loaded model: its figures, its settings, and what may be changed while it lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mlx import nn

from moe_mlx.counts.ledger import Ledger, Stats
from moe_mlx.errors import DoesNotFitError, ExpertReadError, UsageError
from moe_mlx.expert_cache.eviction import make_eviction
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.reading import ReaderPool
from moe_mlx.expert_cache.steps import DecodeEvent, StepCounter
from moe_mlx.history.keeper import HistoryKeeper
from moe_mlx.history.warmup import WarmCounts, Warmup
from moe_mlx.loading.cached_layers import CachedLayers
from moe_mlx.native.bridge import NativeDecode
from moe_mlx.planning.budget import MemoryPlan, cache_bytes, parse_cap, plan_memory
from moe_mlx.planning.prefetch import Prefetch
from moe_mlx.planning.slot_share import Curve, shared_by
from moe_mlx.routing.names import NATIVE, READBACK
from moe_mlx.routing.policy import RoutingPolicy
from moe_mlx.routing.settings import RoutingSettings
from moe_mlx.store import ExpertSource
from moe_mlx.system.memory import room_beside
from moe_mlx.system.metal import comfortable_bytes
from moe_mlx.system.sizes import show_bytes


@dataclass
class Runtime:
    """Everything that belongs to one loaded model. Changed by its methods only.

    Attributes:
        model: mlx-lm's model, its switches replaced.
        config: The checkpoint's config.
        cached: The MoE layers with their caches, readers and counts.
        routing: The routing asked for.
        evict: Which expert gives way, by name.
        plan: The memory plan in force.
        curves: What slots are shared by, at loading and at every resizing; None where they are shared evenly.
        decode_reason: Why decode runs as it does, in a few words.
        prefetch: How decode in the graph prefetches; None where it does not.
        history: What adds this model's counts to its history; None where none is kept.
        warm_counts: What warm-up has read since loading or the last reset.
        warmup: What is left of a warm-up that waits for idle time.
    """

    model: nn.Module
    config: dict[str, Any]
    cached: CachedLayers
    routing: RoutingSettings
    evict: str
    plan: MemoryPlan
    curves: tuple[Curve, ...] | None
    decode_reason: str
    prefetch: Prefetch | None
    history: HistoryKeeper | None
    warm_counts: WarmCounts
    warmup: Warmup | None

    @property
    def layers(self) -> list[LayerCache]:
        """The MoE layers, in order."""
        return self.cached.layers

    @property
    def source(self) -> ExpertSource:
        """Where experts are read from."""
        return self.cached.source

    @property
    def pool(self) -> ReaderPool:
        """Python's reader threads."""
        return self.cached.pool

    @property
    def ledger(self) -> Ledger:
        """The steps as they were counted."""
        return self.cached.ledger

    @property
    def counter(self) -> StepCounter:
        """Numbers the model calls."""
        return self.cached.counter

    @property
    def stats(self) -> Stats:
        """Running totals."""
        return self.cached.stats

    @property
    def native(self) -> NativeDecode | None:
        """What runs decode in the graph, where that can be had."""
        return self.cached.native

    @property
    def decode_way(self) -> str:
        """How decode runs: "native" (in the graph) or "readback"."""
        return self.cached.decode_way

    @property
    def routed(self) -> bool:
        """Whether the router of every MoE layer is known, so that a lossy policy takes effect."""
        return self.cached.routed

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
        return self.cached.slots_per_layer

    @property
    def expert_cache_bytes(self) -> int:
        """Bytes of all slot banks."""
        return self.cached.nbytes

    @property
    def held(self) -> int:
        """Bytes of the plan that are taken already, whatever is being answered."""
        return self.plan.resident_weights + self.cached.nbytes + self.plan.beside

    @property
    def resident_share(self) -> float:
        """Share of the routed experts that have a slot."""
        return sum(self.slots_per_layer) / sum(layer.experts for layer in self.source.layers)

    @property
    def layers_passed(self) -> int:
        """MoE layers that the model call under way has entered; all of them between two calls."""
        return self.counter.layers_passed

    def resident_experts(self) -> list[tuple[int, int]]:
        """Returns the experts that have a slot now: pairs of MoE ordinal and expert."""
        self.drain()
        return [(cache.spec.index, expert) for cache in self.layers for expert in cache.table.resident]

    def drain(self) -> None:
        """Waits for all queued work that reads slots; see `CachedLayers.drain`."""
        self.cached.drain()

    def end_turn(self) -> ExpertReadError | None:
        """Waits where nobody will take a step that is queued; see `CachedLayers.end_turn`."""
        return self.cached.end_turn()

    def check_token(self) -> None:
        """Raises what the step of a token ran into that is about to be taken; mlx-lm has built one step more by then.

        Raises:
            ExpertReadError: an expert could not be read.
        """
        if self.native is not None:
            self.native.check_token(self.cached.counter.step - 1)

    def use_decode(self, way: str) -> None:
        """Changes between "native" and "readback", between tokens; both go on from the same tables.

        Raises:
            UsageError: "native" cannot be had here; `decode_reason` says why.
        """
        if way not in (NATIVE, READBACK):
            raise UsageError(f"unknown decode {way!r}: choose native or readback")
        if way == NATIVE and self.native is None:
            raise UsageError(f"decode in the graph is not available here: {self.decode_reason}")
        self.cached.use_decode(way)

    def reset(self) -> None:
        """Empties residency, running ranges, counters and records; layers that hold all their experts keep them.

        What was counted goes to the history first. Warm-up is not repeated.
        """
        with self.cached.lock:
            self.end_turn()
            if self.history is not None:
                self.history.absorb()
            self.warmup = None
            self.warm_counts.reset()
            self.cached.empty()
            if self.history is not None:
                self.history.begin()

    def set_routing(self, **changes: Any) -> RoutingSettings:
        """Changes routing between tokens; names as in `RoutingSettings`.

        Raises:
            UsageError: a value or a name that cannot be taken.
        """
        unknown = set(changes) - set(RoutingSettings.__dataclass_fields__)
        if unknown:
            raise UsageError(f"unknown routing setting {sorted(unknown)[0]!r}")
        settings = replace(self.routing, **changes)
        with self.cached.lock:
            self.cached.route_by(settings.policy)
            self.routing = settings
        return settings

    def route_by(self, policy_of: Callable[[int, int], RoutingPolicy]) -> None:
        """Routes by policies that no setting names, until the next `set_routing`; for measurements.

        Args:
            policy_of: Gives a layer's policy, from its top_k and its number of experts.
        """
        self.cached.route_by(policy_of)

    def set_eviction(self, evict: str) -> None:
        """Changes which expert gives way, between tokens; layers where that is another one start empty.

        Raises:
            UsageError: there is no such eviction.
        """
        make_eviction(evict)
        with self.cached.lock:
            self.cached.evict_by(evict)
            self.evict = evict

    def record(self, recorder: Callable[[DecodeEvent], None] | None) -> None:
        """Hands every decode event of every layer to `recorder` from now on; to nobody where it is None."""
        for cache in self.layers:
            cache.recorder = recorder

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
            beside=self.plan.beside,
            available=room_beside(self.held),
            held=self.cached.nbytes,
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
        with self.cached.lock:
            plan = self.plan_for(expert_cache)
            self.drain()
            self.ledger.collect(closing=True)
            before = self.slots_per_layer
            try:
                for index in sorted(range(len(before)), key=lambda index: plan.slots[index] - before[index]):
                    self.cached.rebuild(index, plan.slots[index], self.evict)
            finally:  # what is there, whatever came in between
                slots = tuple(self.slots_per_layer)
                self.plan = replace(plan, slots=slots, expert_cache=cache_bytes(self.source.layers, slots))
            return plan

    def reserve(self, nbytes: int, what: str) -> None:
        """Takes bytes beside the expert cache into the plan in force; `give_back` takes them out again.

        Raises:
            DoesNotFitError: the plan has no room for them.
        """
        plan = self.plan
        if plan.available is not None and plan.total + nbytes > plan.available:
            raise DoesNotFitError(
                f"{what} beside the {show_bytes(plan.total)} planned, {show_bytes(plan.available)} are available: "
                "choose a smaller --expert-cache"
            )
        self.plan = replace(plan, extra=plan.extra + nbytes)

    def give_back(self, nbytes: int) -> None:
        """Takes reserved bytes out of the plan."""
        self.plan = replace(self.plan, extra=self.plan.extra - nbytes)

    def warm_while_idle(self, wanted_elsewhere: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Goes on with a warm-up that waits for idle time, until it is done or something better is to be done.

        Args:
            wanted_elsewhere: Asked between batches; True ends it at once, for good if a step then runs.
            say: Gets one line when it is done.
        """
        warmup = self.warmup
        if warmup is None or not warmup.pending:
            return
        if self.cached.lossy:  # the routing was changed since
            self.warmup = None
            return
        while warmup.pending and not wanted_elsewhere():
            with self.cached.lock:
                warmup.step()
        if not warmup.pending and (line := warmup.summary()):
            self.warmup = None
            say(line)

    def close(self) -> None:
        """Waits for queued work, keeps the history, ends the reader threads and closes the files."""
        self.drain()
        if self.history is not None:
            self.history.save(at_once=True)
        self.cached.close()
