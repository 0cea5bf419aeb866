"""How the slots of a cap are shared among layers: evenly, or by what each layer was measured to need.

A layer's curve tells its misses a token at every number of slots, from reuse distances under LRU. Slots go where the
next one saves most (greedy on the lower convex hull of each curve: a curve may be flat before it falls). Any share
gives the same answers under exact routing; only the misses differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from moe_mlx.history.file import History
from moe_mlx.planning.budget import MemoryPlan, cache_bytes
from moe_mlx.planning.crossings import price_bytes
from moe_mlx.store import ExpertLayer
from moe_mlx.system.given import check_choice

SHARES = ("even", "measured")
#: Decode steps, aged, that every layer needs in a history before its curves are believed.
ENOUGH_TOKENS = 512

#: Misses a token of one layer, `[E + 1]`, by its number of slots.
Curve = tuple[float, ...]


def check_share(share: str) -> str:
    """Returns the share asked for.

    Raises:
        UsageError: there is no such share.
    """
    return check_choice("share", share, SHARES)


def curve_of(distances: Sequence[float], top_k: int) -> Curve:
    """Returns the curve that reuse distances, `[E + 1]`, make; first uses always miss and are left out."""
    experts = len(distances) - 1
    tokens = sum(distances) / top_k or 1.0
    misses = [0.0] * (experts + 1)
    for slots in range(experts - 1, -1, -1):
        misses[slots] = misses[slots + 1] + distances[slots]
    return tuple(count / tokens for count in misses)


def priced(curves: Sequence[Curve], layers: Sequence[ExpertLayer], nbytes: float) -> tuple[Curve, ...]:
    """Returns the curves with what a capped layer costs a token beside its misses, as so many bytes more to read.

    A layer that has a slot for every expert does not pay it, so near full residency slots gather in whole layers.
    """
    return tuple(
        (*(misses + nbytes / layer.expert_nbytes for misses in curve[:-1]), curve[-1])
        for curve, layer in zip(curves, layers, strict=True)
    )


def curves_of(
    history: History | None, layers: Sequence[ExpertLayer], price: float = 0.0
) -> tuple[tuple[Curve, ...] | None, str]:
    """Returns the layers' curves, or None and why a history has none.

    Args:
        history: What earlier runs used.
        layers: The MoE layers.
        price: What a capped layer costs a token beside its misses, in bytes; see `priced`.
    """
    if history is None:
        return None, "this model has no history yet"
    least = min(past.tokens(layer.top_k) for past, layer in zip(history, layers, strict=True))
    if least < ENOUGH_TOKENS:
        return None, f"the history of this model holds {int(least)} tokens of some layer, {ENOUGH_TOKENS} are needed"
    curves = [curve_of(past.distances, layer.top_k) for past, layer in zip(history, layers, strict=True)]
    return priced(curves, layers, price), ""


def asked_curves(
    share: str, history: History | None, layers: Sequence[ExpertLayer], say: Callable[[str], None]
) -> tuple[Curve, ...] | None:
    """Returns what slots are to be shared by; None for evenly, which is said where it was not asked for.

    Args:
        share: One of `SHARES`.
        history: What earlier runs used.
        layers: The MoE layers.
        say: Gets the line.
    """
    if share == "even":
        return None
    curves, reason = curves_of(history, layers, price_bytes())
    if curves is None:
        say(f"slots are shared evenly: {reason}")
    return curves


def _segments(curve: Curve, floor: int) -> list[tuple[float, int]]:
    """Returns the lower convex hull from `floor` slots on: misses saved a slot, and for how many slots."""
    hull: list[int] = []
    for slots in range(floor, len(curve)):
        while len(hull) > 1 and _slope(curve, hull[-2], slots) >= _slope(curve, hull[-2], hull[-1]):
            hull.pop()
        hull.append(slots)
    return [(_slope(curve, few, many), many - few) for few, many in pairwise(hull)]


def _slope(curve: Curve, few: int, many: int) -> float:
    return (curve[few] - curve[many]) / (many - few)


def measured_slots(layers: Sequence[ExpertLayer], curves: Sequence[Curve], even: Sequence[int]) -> tuple[int, ...]:
    """Returns slots per layer by need, in no more bytes than `even` takes; `even` where that is no worse.

    Every layer keeps its top_k slots and has at most one an expert.
    """
    slots = [min(layer.top_k, count) for layer, count in zip(layers, even, strict=True)]
    left = cache_bytes(layers, even) - cache_bytes(layers, slots)
    steps = [
        (saved, index, length)
        for index, (layer, curve) in enumerate(zip(layers, curves, strict=True))
        for saved, length in _segments(curve, slots[index])
        if saved > 0
    ]
    # A hull's slopes fall, and sorting is stable, so that each layer's segments stay in order.
    for _, index, length in sorted(steps, key=lambda step: -step[0]):
        nbytes = layers[index].expert_nbytes
        taken = min(length, left // nbytes, layers[index].experts - slots[index])
        slots[index] += taken
        left -= taken * nbytes
    # What no curve has a use for goes to whoever has least.
    while poor := [i for i, one in enumerate(layers) if slots[i] < one.experts and one.expert_nbytes <= left]:
        index = min(poor, key=slots.__getitem__)
        slots[index] += 1
        left -= layers[index].expert_nbytes
    if missed_bytes(layers, curves, slots) >= missed_bytes(layers, curves, even):
        return tuple(even)
    return tuple(slots)


def missed_bytes(layers: Sequence[ExpertLayer], curves: Sequence[Curve], slots: Sequence[int]) -> float:
    """Returns the bytes a token that the curves expect to be read."""
    return sum(curve[count] * layer.expert_nbytes for layer, curve, count in zip(layers, curves, slots, strict=True))


def shared_by(plan: MemoryPlan, layers: Sequence[ExpertLayer], curves: Sequence[Curve] | None) -> MemoryPlan:
    """Returns the plan with its slots shared by need; as it is without curves."""
    if curves is None:
        return plan
    slots = measured_slots(layers, curves, plan.slots)
    return replace(plan, slots=slots, expert_cache=cache_bytes(layers, slots))
