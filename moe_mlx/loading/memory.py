"""Plans a model's memory before its slots are made: how many each layer gets, and the buffers beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from moe_mlx.history.keeper import HistoryKeeper, open_history
from moe_mlx.history.pins import Pins, check_pins, pins_of
from moe_mlx.loading.options import Options
from moe_mlx.planning.budget import MemoryPlan, cache_bytes, plan_memory
from moe_mlx.planning.low_slots import coarse_sizes, divided
from moe_mlx.planning.prefetch import Prefetch, plan_prefetch
from moe_mlx.planning.slot_share import Curve, asked_curves, shared_by
from moe_mlx.store import ExpertLayer, ExpertSource
from moe_mlx.system.memory import room_beside
from moe_mlx.system.metal import comfortable_bytes


@dataclass(frozen=True, slots=True)
class Planned:
    """Where memory will go.

    Attributes:
        plan: The memory plan, buffers of `prefetch` included.
        budget: Bytes that the cap gave to experts; low slots may leave some of them over.
        prefetch: How to prefetch, should decode run in the graph; None for not at all.
        curves: What slots are shared by; None where they are shared evenly.
        history: What adds the model's counts to its history; None where none is kept.
        bounce_nbytes: Bytes of the readers' buffers without prefetch.
        pins: The pinned experts of each layer.
    """

    plan: MemoryPlan
    budget: int
    prefetch: Prefetch | None
    curves: tuple[Curve, ...] | None
    history: HistoryKeeper | None
    bounce_nbytes: int
    pins: Pins

    def with_slots(self, slots: tuple[int, ...], layers: Sequence[ExpertLayer]) -> Planned:
        """Returns the plan with other numbers of slots, none of them larger."""
        return replace(self, plan=replace(self.plan, slots=slots, expert_cache=cache_bytes(layers, slots)))

    def without_prefetch(self) -> Planned:
        """Returns the plan of a decode that does not prefetch."""
        return replace(self, plan=replace(self.plan, extra=self.bounce_nbytes), prefetch=None)


def plan_load(
    options: Options,
    source: ExpertSource,
    resident_nbytes: int,
    kv_nbytes: int,
    remark: Callable[[str], None],
    *,
    freed: int = 0,
) -> Planned:
    """Decides how many slots each layer gets.

    Args:
        options: What was asked for.
        source: The opened model.
        resident_nbytes: Bytes that its weights take beside the routed experts.
        kv_nbytes: Bytes of the KV cache to come.
        remark: Gets a line where slots are shared evenly though that was not asked for.
        freed: Bytes that this process holds and will have given back by then.

    Raises:
        DoesNotFitError: the expert cache is below its floor or above what memory holds, or too small for the pins.
        UsageError: an expert that is to be pinned does not exist.
    """
    coarse = coarse_sizes(source, options.light_form) if options.routing.light_rule.coarse else None
    prefetch = plan_prefetch(options.prefetch, options.prefetch_extra, source.layers, options.readers)
    if coarse is not None and prefetch is not None:
        prefetch = None
        if options.prefetch == "on":
            remark("--prefetch on has no effect: which bits a guessed expert needs is not known (--light coarse)")
    # A bounce buffer and room to rearrange an expert a thread: of Python's readers, the graph's, those that prefetch.
    bounce = source.access.bounce_nbytes + source.scratch_nbytes
    demand = bounce * (options.readers if options.decode == "readback" else 2 * options.readers)
    staging = 0 if prefetch is None else prefetch.nbytes
    if prefetch is not None and options.decode != "readback":
        staging += bounce * prefetch.threads
    plan = plan_memory(
        source.layers,
        options.cap,
        resident_weights=resident_nbytes,
        kv_cache=kv_nbytes,
        available=room_beside(freed),
        comfortable=comfortable_bytes(),
        per_layer_extra=demand + staging,
        beside=options.beside,
    )
    history = open_history(options.history_folder, source, remark, options.profile)
    curves = asked_curves(options.share, None if history is None else history.past, source.layers, remark)
    plan = shared_by(plan, source.layers, curves)
    pins = _pins(options, source, history, remark)
    check_pins([len(pinned) for pinned in pins], source.layers, plan.slots)
    return Planned(divided(plan, source.layers, coarse), plan.expert_cache, prefetch, curves, history, demand, pins)


def _pins(options: Options, source: ExpertSource, history: HistoryKeeper | None, remark: Callable[[str], None]) -> Pins:
    """Returns the pinned experts of each layer; none by use, with a line, where nothing is known yet."""
    wish = options.pin_wish
    if wish is None:
        return (frozenset(),) * len(source.layers)
    past = None if history is None else history.past
    if wish.hottest and past is None:
        remark(f"--pin {wish.hottest} pins nothing: the history knows nothing of this model yet")
    return pins_of(wish, source.layers, past)
