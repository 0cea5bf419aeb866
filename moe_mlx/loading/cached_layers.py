"""The MoE layers of one model and their expert caches: what is done to all of them together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import overload

import mlx.core as mx

from moe_mlx.counts.ledger import Ledger, Stats
from moe_mlx.counts.reads import ReadTotals
from moe_mlx.errors import ExpertReadError, UsageError
from moe_mlx.expert_cache.eviction import make_eviction
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.reading import ReaderPool
from moe_mlx.expert_cache.steps import StepCounter
from moe_mlx.native.bridge import NativeDecode
from moe_mlx.planning.low_slots import coarse_sizes
from moe_mlx.routing.light import LightRule
from moe_mlx.routing.names import COARSE, EXACT, NATIVE, READBACK
from moe_mlx.routing.policy import RoutingPolicy
from moe_mlx.store import ExpertSource


class CachedLayers(Sequence[LayerCache]):
    """Layers in the order of execution, which share readers, a ledger and the numbering of model calls.

    Attributes:
        source: Where experts are read from.
        pool: Python's reader threads.
        ledger: Joins the layers' events to steps.
        counter: Numbers the model calls.
        routed: Whether every layer's router is known, so that a lossy policy takes effect.
        stats: Running totals.
        native: What runs decode in the graph; None where that cannot be had.
        decode_way: "native" (in the graph) or "readback".
        lock: Held by whoever changes them between tokens.
    """

    def __init__(
        self,
        layers: Sequence[LayerCache],
        source: ExpertSource,
        pool: ReaderPool,
        ledger: Ledger,
        counter: StepCounter,
        *,
        routed: bool,
    ) -> None:
        self._layers, self.source, self.pool = tuple(layers), source, pool
        self.ledger, self.counter, self.routed = ledger, counter, routed
        self.stats = Stats(ledger, ReadTotals(pool.log, lambda: source.access.way))
        self.native: NativeDecode | None = None
        self.decode_way = READBACK
        self.lock = threading.RLock()
        counter.on_begin += [ledger.collect, self._raise_untold]

    def __len__(self) -> int:
        return len(self._layers)

    @overload
    def __getitem__(self, index: int) -> LayerCache: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[LayerCache]: ...

    def __getitem__(self, index: int | slice) -> LayerCache | Sequence[LayerCache]:
        return self._layers[index]

    def __iter__(self) -> Iterator[LayerCache]:
        return iter(self._layers)

    @property
    def slots_per_layer(self) -> list[int]:
        """Slots of each layer."""
        return [cache.table.slots for cache in self]

    @property
    def nbytes(self) -> int:
        """Bytes of all slot banks."""
        return sum(cache.bank.nbytes for cache in self)

    @property
    def low_slots(self) -> list[int]:
        """Low slots of each layer."""
        return [cache.table.low for cache in self]

    @property
    def coarse_nbytes(self) -> tuple[int, ...] | None:
        """Bytes of a low slot of each layer; None where experts can only be whole."""
        return coarse_sizes(self.source, self[0].form)

    @property
    def whole(self) -> bool:
        """Whether every expert of every layer is resident, for good."""
        return all(cache.full for cache in self)

    @property
    def why_waits(self) -> str:
        """Why every expert is waited for even where light ones might be late; "" where there is no reason."""
        return next((cache.lateness.why_waits for cache in self if cache.lateness.why_waits), "")

    @property
    def lossy(self) -> bool:
        """Whether what is resident may change a decode step of some layer."""
        return any(cache.lossy for cache in self)

    def drain(self) -> None:
        """Waits for all queued work that reads slots.

        What a queued step ran into is raised by the model's next call: its token, and what it left in a KV cache, would
        be taken for good otherwise.
        """
        for cache in self:
            try:
                cache.bank.wait_for_queued()
            except ExpertReadError as error:
                if self.native is not None:
                    self.native.untold = error
        if self.native is not None and self.native.failed:
            self.native.untold = self.native.recover()
        mx.synchronize()
        for cache in self:
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

    def _raise_untold(self) -> None:
        if self.native is not None and (error := self.native.take_untold()) is not None:
            raise error

    def join(self, native: NativeDecode) -> None:
        """Lets decode run in the graph from now on, should `use_decode` choose so."""
        self.native = native
        native.join(self)
        self.stats.read_totals.logs.append(native.read_log)

    def part(self) -> None:
        """Gives up decode in the graph."""
        if self.native is not None:
            self.use_decode(READBACK)
            self.native.close()
            self.native = None

    def use_decode(self, way: str) -> None:
        """Changes between "native", which must be joined, and "readback", between tokens."""
        with self.lock:
            self.drain()
            self.ledger.collect(closing=True)
            for place, cache in enumerate(self):
                cache.native = self.native.layers[place] if self.native is not None and way == NATIVE else None
            self.ledger.lag = 2 if way == NATIVE else 0  # mlx-lm builds one step while another runs
            self.decode_way = way

    def route_by(self, policy_of: Callable[[int, int], RoutingPolicy]) -> None:
        """Gives each layer the policy of its (top_k, experts), between tokens; none where a router is not known."""
        if not self.routed:
            return
        with self.lock:
            self.drain()
            for cache in self:
                cache.policy = policy_of(cache.spec.top_k, cache.spec.experts)

    def light_by(self, rule: LightRule) -> None:
        """Changes what light experts do, between tokens; nobody is late where `why_waits` says why.

        Raises:
            UsageError: thresholds of another number of layers.
        """
        if rule.by_layer and len(rule.by_layer) != len(self):
            raise UsageError(f"{len(rule.by_layer)} thresholds of light experts for {len(self)} layers")
        with self.lock:
            self.drain()
            if self.why_waits:
                rule = replace(rule, mode=COARSE if rule.coarse else EXACT)
            for place, cache in enumerate(self):
                before, after = place - rule.distance, place + rule.distance
                earlier = self[before] if before >= 0 and rule.late else None
                later = self[after] if after < len(self) and rule.late else None
                cache.lateness.link(rule.of_layer(place), earlier, later)

    def form_by(self, form: str) -> None:
        """Changes what of an expert a coarse one is in low slots that are made from now on, between tokens."""
        for cache in self:
            cache.form = form

    def evict_by(self, name: str) -> None:
        """Changes which expert gives way, between tokens; a layer where that is another one starts empty.

        Raises:
            UsageError: there is no such eviction.
        """
        with self.lock:
            self.drain()
            for cache in self:
                if not cache.full and cache.table.eviction.name != name:
                    if self.native is not None:
                        self.native.release(cache)
                    table, mover = cache.table, cache.table.mover
                    cache.table = table.resized(table.slots, make_eviction(name), table.low)
                    cache.table.mover = mover

    def empty(self) -> None:
        """Empties residency, running ranges, counters and records; layers that hold all their experts keep them."""
        self.end_turn()
        if self.native is not None:
            self.native.drop_guesses()
        for cache in self:
            cache.empty()
        self.counter.begin_anew()
        self.stats.reset()

    def rebuild(self, index: int, slots: int, evict: str, low: int = 0) -> None:
        """Gives a layer another bank and rereads its hottest experts, after `drain`.

        A file that cannot be read is told by the step that needs it, not here.

        Raises:
            DoesNotFitError: the memory cannot be had; the layer then has as many slots as before, or top_k.
        """
        cache = self[index]
        every = slots == cache.table.experts
        same_form = cache.bank.low is None or cache.bank.low.form == cache.form
        if (slots, low) == (cache.table.slots, cache.table.low) and cache.full == every and same_form:
            return
        hottest = cache.table.hottest()[: slots + low]
        coarse = hottest[slots:]
        if self.native is not None:
            self.native.release(cache)
        cache.rebuild(slots, low, make_eviction(evict))
        with suppress(ExpertReadError):
            if every:
                cache.fill_whole()
            else:
                cache.fill(list(reversed(hottest)), coarse)

    def fill_whole_layers(self) -> None:
        """Reads in every expert of the layers that have a slot for each.

        Raises:
            ExpertReadError: an expert could not be read.
        """
        for cache in self:
            if cache.table.slots == cache.table.experts:
                cache.fill_whole()

    def pin(self, pins: Sequence[Collection[int]]) -> int:
        """Lets the pinned experts of each layer keep their slots for good, and reads in those that are absent.

        Returns:
            Bytes read.

        Raises:
            ExpertReadError: one of them could not be read.
        """
        nbytes = 0
        with self.lock:
            self.drain()
            for cache, pinned in zip(self, pins, strict=True):
                cache.table.pin(pinned)
                absent = [expert for expert in sorted(pinned) if not cache.table.whole(expert)]
                if absent and not cache.full:
                    nbytes += cache.fill(absent)
        return nbytes

    @property
    def pins(self) -> list[int]:
        """How many experts of each layer are pinned."""
        return [cache.table.state.pins for cache in self]

    def close(self) -> None:
        """Ends the reader threads and closes the files, after `drain`."""
        if self.native is not None:
            self.native.close()
        self.pool.close()
        self.source.close()
