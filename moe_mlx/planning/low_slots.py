"""How a layer's share of a cap is divided between whole and low slots, where light experts may be coarse.

The rule, from sweeps over two trained models: the heaviest experts of a token have to be whole, so a layer keeps whole
slots for one and a half tokens' experts; what is left buys low slots, as many experts as possible being in memory at
all. (With top_k whole slots alone, the heavy experts take turns in them: as many bytes are read, in more reads that
block.) Where that would leave fewer low slots than a token has experts, whole ones give way, down to top_k. Once every
expert of the layer is in memory, what is left makes low slots whole. Where the low slots that a token's light experts
may need at once (top_k - 1) cannot be had beside top_k whole ones, all slots are whole, and nobody is coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moe_mlx.planning.budget import MemoryPlan
from moe_mlx.routing.names import DEFAULT_FORM
from moe_mlx.store import ExpertLayer, ExpertSource
from moe_mlx.store.store import StoreSource


def divide(layer: ExpertLayer, slots: int, coarse_nbytes: int) -> tuple[int, int]:
    """Returns whole and low slots that take no more memory than so many whole ones.

    Args:
        layer: The layer.
        slots: Whole slots that its share of the cap has room for, top_k or more.
        coarse_nbytes: Bytes of a low slot.
    """
    experts, whole, nbytes = layer.experts, layer.expert_nbytes, slots * layer.expert_nbytes
    least, most = layer.top_k, experts - (layer.top_k - 1)
    if slots >= experts or layer.top_k < 2 or most < least or not 0 < coarse_nbytes < whole:
        return slots, 0
    wanted = min(least + layer.top_k // 2, most)
    some = (nbytes - experts * coarse_nbytes) // (whole - coarse_nbytes)
    if some >= wanted:
        return min(some, most), experts - min(some, most)

    def low_beside(count: int) -> int:
        return min((nbytes - count * whole) // coarse_nbytes, experts - count)

    while wanted > least and low_beside(wanted) < layer.top_k:
        wanted -= 1
    low = low_beside(wanted)
    return (wanted, low) if low >= layer.top_k - 1 else (slots, 0)


def divide_all(
    layers: Sequence[ExpertLayer], slots: Sequence[int], coarse_nbytes: Sequence[int] | None
) -> tuple[tuple[int, int], ...]:
    """Returns whole and low slots of each layer; empty where experts are whole only."""
    if coarse_nbytes is None:
        return ()
    return tuple(divide(layer, count, of) for layer, count, of in zip(layers, slots, coarse_nbytes, strict=True))


def low_slots_words(pairs: Sequence[tuple[int, int]]) -> str:
    """Returns whole and low slots of layers in a few characters: "4 + 18", the least and most where layers differ."""

    def span(counts: Sequence[int]) -> str:
        return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}-{max(counts)}"

    return f"{span([whole for whole, _ in pairs])} + {span([low for _, low in pairs])}"


def bank_sizes(
    layers: Sequence[ExpertLayer], slots: Sequence[int], low: Sequence[int], coarse_nbytes: Sequence[int]
) -> list[int]:
    """Returns the bytes of each layer's slots; arguments by layer, the latter two empty where no slot is low."""
    parts = zip(layers, slots, low or (0,) * len(layers), coarse_nbytes or (0,) * len(layers), strict=True)
    return [layer.expert_nbytes * whole + few * nbytes for layer, whole, few, nbytes in parts]


def divided(plan: MemoryPlan, layers: Sequence[ExpertLayer], coarse_nbytes: Sequence[int] | None) -> MemoryPlan:
    """Returns the plan with its slots divided by the rule above; as it is where nobody may be coarse.

    Args:
        plan: Its slots are whole ones.
        layers: The MoE layers.
        coarse_nbytes: Bytes of a low slot, by layer; None where nobody may be coarse.
    """
    if coarse_nbytes is None:
        return plan
    pairs = divide_all(layers, plan.slots, coarse_nbytes)
    slots, low = tuple(whole for whole, _ in pairs), tuple(few for _, few in pairs)
    held = sum(bank_sizes(layers, slots, low, coarse_nbytes))
    return replace(plan, slots=slots, low=low if any(low) else (), expert_cache=held)


def coarse_sizes(source: ExpertSource, form: str = DEFAULT_FORM) -> tuple[int, ...] | None:
    """Returns the bytes of a coarse expert, by layer; None where a source gives whole experts alone, or their rows.

    Args:
        source: Where experts are read from.
        form: One of `LIGHT_FORMS`.
    """
    if not isinstance(source, StoreSource) or not source.layouts[0].nested:
        return None
    return tuple(layout.coarse_nbytes(form) for layout in source.layouts)
