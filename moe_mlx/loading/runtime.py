"""The expert cache behind a loaded model: its figures, its settings, and what may be changed while it lives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx import nn

from moe_mlx.counts.ledger import Stats
from moe_mlx.errors import ExpertReadError, UsageError
from moe_mlx.expert_cache.eviction import make_eviction
from moe_mlx.expert_cache.steps import DecodeEvent
from moe_mlx.history.keeper import HistoryKeeper
from moe_mlx.history.pins import PINNED_WHOLE
from moe_mlx.history.warmup import Warmup
from moe_mlx.loading.cached_layers import CachedLayers
from moe_mlx.loading.kv_room import KVRoom
from moe_mlx.loading.limits import HeldLimits
from moe_mlx.loading.resizing import Sizing
from moe_mlx.planning.budget import MemoryPlan
from moe_mlx.planning.prefetch import Prefetch
from moe_mlx.routing.light import LightRule
from moe_mlx.routing.names import LIGHT_FORMS, NATIVE, READBACK
from moe_mlx.routing.policy import RoutingPolicy
from moe_mlx.routing.settings import RoutingSettings
from moe_mlx.store import ExpertSource
from moe_mlx.store.given import bits_words
from moe_mlx.system.given import check_choice
from moe_mlx.vlm.processing import PictureReader


@dataclass
class Runtime:
    """Everything that belongs to one loaded model. Changed by its methods only.

    Attributes:
        model: mlx-lm's model, its switches replaced.
        config: The checkpoint's config.
        layers: The MoE layers with their caches, in order; also their readers, their ledger, and decode in the graph.
        routing: The routing asked for.
        evict: Which expert gives way, by name.
        sizing: The memory plan, and how it is changed.
        limits: Its hold on MLX's limits.
        kv: What the model's KV cache is, and what the plan has for it.
        decode_reason: Why decode runs as it does, in a few words.
        prefetch: How decode in the graph prefetches; None where it does not.
        history: What adds this model's counts to its history; None where none is kept.
        pictures: What reads pictures for it; None where it cannot be shown any.
        warmup: What warm-up has read since loading or the last reset, and what of it waits for idle time.
        on_change: Told of a change before it is made, by the method's name and arguments, where other processes run
            parts of the model; raises what forbids it, and returns the slots a layer that are agreed on at most.
    """

    model: nn.Module
    config: dict[str, Any]
    layers: CachedLayers
    routing: RoutingSettings
    evict: str
    sizing: Sizing
    limits: HeldLimits
    kv: KVRoom
    decode_reason: str
    prefetch: Prefetch | None
    history: HistoryKeeper | None
    warmup: Warmup
    on_change: Callable[[str, dict[str, Any]], Sequence[int] | None] | None = None
    pictures: PictureReader | None = None

    @property
    def source(self) -> ExpertSource:
        """Where experts are read from."""
        return self.layers.source

    @property
    def stats(self) -> Stats:
        """Running totals."""
        return self.layers.stats

    @property
    def plan(self) -> MemoryPlan:
        """The memory plan in force."""
        return self.sizing.plan

    @property
    def decode_way(self) -> str:
        """How decode runs: "native" (in the graph) or "readback"."""
        return self.layers.decode_way

    @property
    def in_force(self) -> str:
        """The routing, and what else makes this another model than its publisher's, in words."""
        bits = bits_words(self.source)
        return self.routing.describe() + (f", experts of {bits}" if bits else "")

    @property
    def io_way(self) -> str:
        """How experts are read: "cached", "direct" (past the page cache), or "dropped" (cached, then dropped)."""
        return self.source.access.way

    @property
    def io_reason(self) -> str:
        """Why that way, in a few words."""
        return self.source.access.reason

    @property
    def profile(self) -> str:
        """Name of the profile whose history this is; empty for the model's own, or none."""
        return (self.history.profile or "") if self.history is not None else ""

    @property
    def warmed(self) -> int:
        """Experts that warm-up has read since loading or the last reset, which no other count includes."""
        return self.warmup.experts

    @property
    def warmed_bytes(self) -> int:
        """Bytes of those."""
        return self.warmup.nbytes

    @property
    def pinned(self) -> int:
        """Experts that never give way."""
        return sum(self.layers.pins)

    @property
    def slots_per_layer(self) -> list[int]:
        """Whole slots of each MoE layer."""
        return self.layers.slots_per_layer

    @property
    def low_slots_per_layer(self) -> list[int]:
        """Low slots of each MoE layer, beside them."""
        return self.layers.low_slots

    @property
    def expert_cache_bytes(self) -> int:
        """Bytes of all slot banks."""
        return self.layers.nbytes

    @property
    def held(self) -> int:
        """Bytes of the plan that are taken already, whatever is being answered."""
        return self.sizing.held

    @property
    def resident_share(self) -> float:
        """Share of the routed experts that have a slot, whole or low."""
        held = sum(self.slots_per_layer) + sum(self.low_slots_per_layer)
        return held / sum(layer.experts for layer in self.source.layers)

    def resident_experts(self) -> list[tuple[int, int]]:
        """Returns the experts that have a slot now: pairs of MoE ordinal and expert."""
        self.drain()
        return [(cache.spec.index, expert) for cache in self.layers for expert in cache.table.resident]

    def drain(self) -> None:
        """Waits for all queued work that reads slots; see `CachedLayers.drain`."""
        self.layers.drain()

    def end_turn(self) -> ExpertReadError | None:
        """Waits where nobody will take a step that is queued; see `CachedLayers.end_turn`."""
        return self.layers.end_turn()

    def check_token(self, ahead: int = 1) -> None:
        """Raises what the step of a token ran into that is about to be taken.

        Args:
            ahead: Steps that have been built since; mlx-lm has built one more by then.

        Raises:
            ExpertReadError: an expert could not be read.
        """
        if self.layers.native is not None:
            self.layers.native.check_token(self.layers.counter.step - ahead)

    def use_decode(self, way: str) -> None:
        """Changes between "native" and "readback", between tokens; both go on from the same tables.

        Raises:
            UsageError: "native" cannot be had here; `decode_reason` says why.
        """
        if way not in (NATIVE, READBACK):
            raise UsageError(f"unknown decode {way!r}: choose native or readback")
        if way == NATIVE and self.layers.native is None:
            raise UsageError(f"decode in the graph is not available here: {self.decode_reason}")
        self._tell("use_decode", way=way)
        self.layers.use_decode(way)

    def _tell(self, change: str, **arguments: Any) -> Sequence[int] | None:
        return None if self.on_change is None else self.on_change(change, arguments)

    def reset(self) -> None:
        """Empties residency, running ranges, counters and records; layers that hold all their experts keep them.

        What was counted goes to the history first. Warm-up is not repeated.
        """
        self._tell("reset")
        with self.layers.lock:
            self.end_turn()
            if self.history is not None:
                self.history.absorb()
            self.warmup.reset()
            self.layers.empty()
            if self.history is not None:
                self.history.begin()

    def set_routing(self, **changes: Any) -> RoutingSettings:
        """Changes routing between tokens; names as in `RoutingSettings`.

        Raises:
            UsageError: a value or a name that cannot be taken.
            DoesNotFitError: experts may be coarse from now on, or no longer, and memory for the slots that this takes
                has gone since loading.
        """
        unknown = set(changes) - set(RoutingSettings.__dataclass_fields__)
        if unknown:
            raise UsageError(f"unknown routing setting {sorted(unknown)[0]!r}")
        settings = replace(self.routing, **changes)
        self._tell("set_routing", **changes)
        with self.layers.lock:
            self.light_by(settings.light_rule)
            self.layers.route_by(settings.policy)
            self.routing = settings
        return settings

    def route_by(self, policy_of: Callable[[int, int], RoutingPolicy]) -> None:
        """Routes by policies that no setting names, until the next `set_routing`; for measurements.

        Args:
            policy_of: Gives a layer's policy, from its top_k and its number of experts.
        """
        self.layers.route_by(policy_of)

    def light_by(self, rule: LightRule) -> None:
        """Treats light experts as no setting does, until the next `set_routing`; for measurements.

        Where experts may be coarse from now on, or may no longer, the slots of the cap are divided anew.

        Raises:
            UsageError: experts may be coarse, and some are pinned.
        """
        with self.layers.lock:
            if rule.coarse and self.pinned:
                raise UsageError(PINNED_WHOLE)
            if rule.coarse != self.sizing.coarse:
                self.sizing.divide(rule.coarse, self.evict)
            self.layers.light_by(rule)

    def set_light_form(self, form: str) -> None:
        """Changes what of an expert a coarse one is, between tokens; errors as `set_routing`, for a name it is not."""
        check_choice("light_form", form, LIGHT_FORMS)
        self._tell("set_light_form", form=form)
        with self.layers.lock:
            before = self.layers[0].form
            self.layers.form_by(form)
            try:
                if form != before and self.sizing.coarse:
                    self.sizing.divide(True, self.evict)
            except BaseException:
                self.layers.form_by(before)
                raise

    def set_eviction(self, evict: str) -> None:
        """Changes which expert gives way, between tokens; layers where that is another one start empty.

        Raises:
            UsageError: there is no such eviction.
        """
        make_eviction(evict)
        self._tell("set_eviction", evict=evict)
        with self.layers.lock:
            self.layers.evict_by(evict)
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
        return self.sizing.plan_for(expert_cache)

    def resize(self, expert_cache: str | int) -> MemoryPlan:
        """Changes the cap between tokens; see `Sizing.resize`.

        Raises:
            UsageError: no cap can be read from `expert_cache`.
            DoesNotFitError: it is below the floor or above what fits, and nothing was changed; or memory that was
                there when it was asked for has gone since, and some layers have slots as before.
        """
        return self.sizing.resize(expert_cache, self.evict, self._tell("resize", expert_cache=expert_cache))

    def warm_while_idle(self, wanted_elsewhere: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Goes on with a warm-up that waits for idle time, until it is done or something better is to be done.

        Args:
            wanted_elsewhere: Asked between batches; True ends it at once, for good if a step then runs.
            say: Gets one line when it is done.
        """
        if self.layers.lossy:  # the routing was changed since
            self.warmup.give_up()
        if self.warmup.while_idle(self.layers.lock, wanted_elsewhere) and (line := self.warmup.summary()):
            say(line)

    def close(self) -> None:
        """Waits for queued work, keeps the history, ends the readers, closes the files and gives MLX's limits back."""
        self.drain()
        if self.history is not None:
            self.history.save(at_once=True)
        self.layers.close()
        self.limits.give_back()
