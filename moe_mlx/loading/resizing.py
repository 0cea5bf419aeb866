"""The memory plan in force of one model, and how its cap changes while the model lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe_mlx.errors import DoesNotFitError
from moe_mlx.history.pins import check_pins
from moe_mlx.loading.cached_layers import CachedLayers
from moe_mlx.planning.budget import MemoryPlan, cache_bytes, parse_cap, plan_memory, slots_for_share
from moe_mlx.planning.low_slots import bank_sizes, divided
from moe_mlx.planning.slot_share import Curve, shared_by
from moe_mlx.system.memory import room_beside
from moe_mlx.system.metal import comfortable_bytes
from moe_mlx.system.sizes import show_bytes


@dataclass
class Sizing:
    """What a model takes, and may take.

    Attributes:
        layers: Its layers.
        plan: The memory plan in force.
        curves: What slots are shared by, at loading and at every resizing; None where they are shared evenly.
        coarse: Whether slots are divided for coarse experts.
        budget: Bytes that the cap gave to experts; low slots may leave some of them over.
    """

    layers: CachedLayers
    plan: MemoryPlan
    curves: tuple[Curve, ...] | None
    coarse: bool
    budget: int

    @property
    def held(self) -> int:
        """Bytes of the plan that are taken already, whatever is being answered."""
        return self.plan.resident_weights + self.layers.nbytes + self.plan.beside

    def plan_for(self, expert_cache: str | int) -> MemoryPlan:
        """Returns the plan of another cap, and changes nothing; errors as `Runtime.plan_for`."""
        return self._divided(self._undivided(expert_cache))

    def _divided(self, plan: MemoryPlan) -> MemoryPlan:
        return divided(plan, self.layers.source.layers, self.layers.coarse_nbytes if self.coarse else None)

    def _undivided(self, expert_cache: str | int) -> MemoryPlan:
        source = self.layers.source
        plan = plan_memory(
            source.layers,
            parse_cap(expert_cache),
            resident_weights=self.plan.resident_weights,
            kv_cache=self.plan.kv_cache,
            per_layer_extra=self.plan.extra,
            beside=self.plan.beside,
            available=room_beside(self.held),
            held=self.layers.nbytes,
            comfortable=comfortable_bytes(),
        )
        plan = shared_by(plan, source.layers, self.curves)
        check_pins(self.layers.pins, source.layers, plan.slots)
        return plan

    @property
    def floor(self) -> int:
        """Bytes of the smallest expert cache: top_k experts a layer, and where some are pinned as many more."""
        layers, pins = self.layers.source.layers, self.layers.pins
        least = [min(layer.experts, layer.top_k + count) for layer, count in zip(layers, pins, strict=True)]
        if any(pins):  # an even share that is enough for the layer that needs most
            share = max(count / layer.experts for count, layer in zip(least, layers, strict=True))
            least = list(slots_for_share(layers, share))
        return cache_bytes(layers, least)

    def resize(self, expert_cache: str | int, evict: str, most: Sequence[int] | None = None) -> MemoryPlan:
        """Puts another cap in force, between tokens.

        Layer by layer the bank is freed, rebuilt, and its hottest experts reread; those that shrink go first, so that
        the old cap or the new one, whichever is larger, is never exceeded on the way.

        Args:
            expert_cache: The cap.
            evict: Which expert gives way from then on, by name.
            most: Slots that each layer gets at most, whatever the cap is enough for.
        """
        layers = self.layers
        with layers.lock:
            undivided = self._undivided(expert_cache)
            if most is not None:
                slots = tuple(map(min, undivided.slots, most))
                undivided = replace(undivided, slots=slots, expert_cache=cache_bytes(layers.source.layers, slots))
            plan = self._divided(undivided)
            layers.drain()
            layers.ledger.collect(closing=True)
            before = [cache.bank.nbytes for cache in layers]
            after = bank_sizes(layers.source.layers, plan.slots, plan.low, layers.coarse_nbytes or ())
            try:
                for index in sorted(range(len(before)), key=lambda index: after[index] - before[index]):
                    layers.rebuild(index, plan.slots[index], evict, plan.low[index] if plan.low else 0)
            finally:  # what is there, whatever came in between
                slots, low = tuple(layers.slots_per_layer), tuple(layers.low_slots)
                nbytes = sum(bank_sizes(layers.source.layers, slots, low, layers.coarse_nbytes or ()))
                self.plan = replace(plan, slots=slots, low=low if any(low) else (), expert_cache=nbytes)
                self.budget = max(undivided.expert_cache, nbytes)
            return plan

    def divide(self, coarse: bool, evict: str) -> None:
        """Divides the slots of the cap in force for coarse experts, or no longer; arguments as `resize`."""
        before, self.coarse = self.coarse, coarse
        try:
            if self.layers.coarse_nbytes is not None:
                self.resize(self.budget, evict)
        except BaseException:
            self.coarse = before
            raise

    def reserve(self, nbytes: int, what: str) -> None:
        """Takes bytes beside the expert cache into the plan; `give_back` takes them out again.

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
