"""Puts a capped switch in the place of every switch of a model, and lets its routers follow a policy."""

from __future__ import annotations

from mlx import nn

from moe_mlx.counts.ledger import Ledger
from moe_mlx.expert_cache.eviction import make_eviction
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.low_slots import bank_of
from moe_mlx.expert_cache.reading import ReaderPool
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx.expert_cache.steps import StepCounter
from moe_mlx.expert_cache.switch import CappedSwitch
from moe_mlx.families.registry import make_routable
from moe_mlx.loading.cached_layers import CachedLayers
from moe_mlx.loading.lora import apply_adapters
from moe_mlx.loading.options import Options
from moe_mlx.loading.skeleton import Skeleton, replace_module
from moe_mlx.planning.budget import MemoryPlan
from moe_mlx.routing.exact import Exact
from moe_mlx.store import ExpertSource


def assemble(skeleton: Skeleton, source: ExpertSource, plan: MemoryPlan, options: Options) -> CachedLayers:
    """Changes the model in place and returns its layers, their slots empty.

    Raises:
        StoreError: the LoRA adapter asked for is missing or corrupt.
        UsageError: that adapter changes routed experts.
    """
    model = skeleton.model
    pool, ledger, counter = ReaderPool(source, options.readers), Ledger(len(source.layers)), StepCounter()
    layers: list[LayerCache] = []
    routed = True
    low_slots = plan.low or (0,) * len(plan.slots)
    for spec, slots, low, (path, inner) in zip(source.layers, plan.slots, low_slots, skeleton.switches, strict=True):
        layout = source.layouts[spec.index] if source.layouts else None
        bank = bank_of(spec, slots, low, inner, layout, options.light_form)
        table = ResidencyTable(spec.experts, slots, make_eviction(options.evict), low)
        table.mover = bank.low
        cache = LayerCache(spec, table, bank, pool, Exact(), ledger.logs[spec.index], counter, inner)
        cache.layout, cache.form = layout, options.light_form
        replace_module(model, path, CappedSwitch(cache))
        routed = make_routable(model, path) and routed
        if layers:
            layers[-1].next_layer = cache
        layers.append(cache)
    cached = CachedLayers(layers, source, pool, ledger, counter, routed=routed)
    cached.route_by(options.routing.policy)
    cached.light_by(options.routing.light_rule)
    if options.adapter_path is not None:
        apply_adapters(model, options.adapter_path, [spec.path for spec in source.layers])
    return cached


def read_resident(model: nn.Module, cached: CachedLayers) -> None:
    """Reads what stays in memory: every weight that is no expert, and the layers that have a slot for each expert.

    Raises:
        ExpertReadError: an expert could not be read.
    """
    import mlx.core as mx

    mx.eval(model.parameters())
    cached.fill_whole_layers()
