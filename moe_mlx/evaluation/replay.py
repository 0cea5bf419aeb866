"""Replays a trace at any capacity, policy and eviction, without the model, through the runtime's own tables and rules.

Under exact routing, and under the policy a trace was recorded with, the counts are the runtime's. Under any other
policy they are an approximation: another choice would have changed the scores that follow.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_mlx.counts.totals import ChoiceShares
from moe_mlx.errors import UsageError
from moe_mlx.evaluation.belady import belady_misses
from moe_mlx.evaluation.contenders import HottestPinned, make_any
from moe_mlx.evaluation.lifetime import lifetime
from moe_mlx.evaluation.setting import Setting
from moe_mlx.evaluation.trace import LayerTrace, Trace
from moe_mlx.expert_cache.eviction import LeastRecentlyUsed
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx.routing.policy import RoutingPolicy, choose, finite_range


@dataclass(frozen=True, slots=True)
class Replayed(ChoiceShares):
    """Counts of a replay, named as in `PhaseTotals`; `choices` is tokens x top-k over layers, `lifetime` in tokens."""

    tokens: int
    choices: int
    hits: int
    misses: int
    swapped: int
    bytes_read: int
    lifetime: float

    @property
    def miss_rate(self) -> float:
        """Misses / (tokens x top-k), over layers."""
        return self.misses / self.choices if self.choices else 0.0

    @property
    def bytes_per_token(self) -> float:
        """Bytes read a token."""
        return self.bytes_read / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class LayerCounts:
    """One layer: hits and swapped in all, misses `[T]` token by token."""

    hits: int
    swapped: int
    misses: NDArray[np.int64]


def replay(trace: Trace, setting: Setting, slots: Sequence[int]) -> Replayed:
    """Replays every layer from an empty cache.

    Args:
        trace: What was recorded.
        setting: Policy and eviction, or "belady".
        slots: Slots of each layer.

    Raises:
        UsageError: fewer slots than a token chooses experts.
    """
    counts = []
    for layer, count in zip(trace.layers, slots, strict=True):
        if not layer.top_k <= count <= layer.experts:
            raise UsageError(f"{count} slots a layer: give {layer.top_k} (top-k) to {layer.experts}")
        if count == layer.experts:
            chosen = layer.exact.size  # as the runtime counts where nothing is looked up
            counts.append(LayerCounts(chosen, 0, np.zeros(trace.tokens, dtype=np.int64)))
        elif setting.routing == "belady":
            choices = layer.exact_choices()
            misses = belady_misses(choices, layer.experts, count)
            counts.append(LayerCounts(sum(map(len, choices)) - int(misses.sum()), 0, misses))
        else:
            eviction = make_any(setting.evict)
            table = ResidencyTable(layer.experts, count, eviction)
            if isinstance(eviction, HottestPinned):
                stored = layer.exact[layer.exact < layer.experts]
                eviction.pin(table, np.bincount(stored, minlength=layer.experts).tolist(), layer.top_k)
            counts.append(replay_layer(layer, table, setting.policy(layer.top_k, layer.experts)))
    layers = list(zip(trace.layers, counts, slots, strict=True))
    return Replayed(
        tokens=trace.tokens,
        choices=trace.tokens * sum(layer.top_k for layer in trace.layers),
        hits=sum(count.hits for count in counts),
        misses=sum(int(count.misses.sum()) for count in counts),
        swapped=sum(count.swapped for count in counts),
        bytes_read=sum(int(count.misses.sum()) * layer.expert_nbytes for layer, count, _ in layers),
        lifetime=lifetime((count.misses, slot, layer.experts) for layer, count, slot in layers),
    )


def distances_of(layer: LayerTrace) -> array[int]:
    """Returns the reuse distances of exact routing, `[E + 1]`, as `ResidencyTable` counts them."""
    table = ResidencyTable(layer.experts, layer.experts, LeastRecentlyUsed())
    for chosen in layer.exact_choices():
        table.count(chosen, ())
    return table.distances


def replay_layer(layer: LayerTrace, table: ResidencyTable, policy: RoutingPolicy) -> LayerCounts:
    """Does to `table`, token by token, what the runtime's decode step does: one atomic event each."""
    misses = np.zeros(layer.exact.shape[0], dtype=np.int64)
    hits = swapped = 0
    resident = np.ones(layer.scores.shape[1], dtype=np.bool_)  # what needs no memory is always there
    slot_of = np.frombuffer(table.slot_of, dtype=np.int32)
    choices = layer.exact_choices() if policy.lossless else None
    for token, exact in enumerate(layer.exact.tolist()):
        if choices is not None:
            touch_order = choices[token]
        else:
            resident[: layer.experts] = slot_of >= 0
            delta = table.observe_range(finite_range(layer.raw[token]))
            choice = choose(policy, layer.scores[token], exact, resident, delta)
            weigh = layer.weigh[token]
            heaviest_first = sorted(choice.experts, key=lambda expert: (-weigh[expert], expert))
            touch_order = [expert for expert in heaviest_first if expert < layer.experts]
            swapped += choice.swapped
        if table.eviction.uses_scores and layer.raw.size:
            table.eviction.observe(table, layer.raw[token].tolist())
        admission = table.begin(touch_order)
        for placement in admission.misses:
            table.commit(placement)
        hits += len(admission.hits)
        misses[token] = len(admission.misses)
    return LayerCounts(hits, swapped, misses)
