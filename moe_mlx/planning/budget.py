"""From "4GB", "50%" or "auto" to slots per layer, and the memory plan behind it. GB = 10^9 bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moe_mlx.errors import DoesNotFitError, UsageError
from moe_mlx.store import ExpertLayer
from moe_mlx.system.sizes import parse_size, show_bytes

_MLX_CACHE_SHARE, _MLX_CACHE_FLOOR, _MLX_CACHE_CEILING = 0.05, 64 * 10**6, 10**9
#: Left to the interpreter, activations and fragmentation when the cap is chosen for the user.
_HEADROOM_SHARE = 0.08


@dataclass(frozen=True, slots=True)
class Cap:
    """An expert cache as asked for: bytes, or a share of the routed experts, or neither (auto)."""

    nbytes: int | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where memory goes, in bytes.

    Attributes:
        slots: Slots of each MoE layer.
        low: Low slots of each beside them; empty where there are none.
        extra: Staging and audit buffers.
        beside: What else this process holds: a draft model and its KV cache.
        experts_total: What every routed expert would take, of which `expert_cache` has a slot.
    """

    slots: tuple[int, ...]
    expert_cache: int
    resident_weights: int
    kv_cache: int
    mlx_cache: int
    available: int | None
    extra: int = 0
    beside: int = 0
    experts_total: int = 0
    low: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """Everything the plan accounts for."""
        return self.expert_cache + self.resident_weights + self.kv_cache + self.mlx_cache + self.extra + self.beside


def parse_cap(value: str | int) -> Cap:
    """Returns the cap in "auto", "50%", "4GB" or a number of bytes.

    Raises:
        UsageError: it is none of them.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UsageError(f"expert_cache is {value!r}: give 'auto', a share such as '50%', or bytes such as '4GB'")
    if isinstance(value, int):
        if value <= 0:
            raise UsageError(f"expert_cache is {value}: give a positive number of bytes")
        return Cap(nbytes=value)
    text = value.strip().lower()
    if text == "auto":
        return Cap()
    if text.endswith("%"):
        try:
            share = float(text[:-1]) / 100
        except ValueError:
            share = math.nan
        if not 0 < share <= 1:
            raise UsageError(f"expert_cache {value!r}: a share is more than 0% and at most 100%")
        return Cap(share=share)
    try:
        return Cap(nbytes=parse_size(text))
    except UsageError as error:
        raise UsageError(f"expert_cache {error}; or give 'auto' or a share such as 50%") from None


def mlx_cache_bytes(available: int) -> int:
    """Returns the limit we set on MLX's buffer cache, in bytes."""
    return int(min(max(available * _MLX_CACHE_SHARE, _MLX_CACHE_FLOOR), _MLX_CACHE_CEILING))


def slots_for_share(layers: Sequence[ExpertLayer], share: float) -> tuple[int, ...]:
    """Returns whole slots per layer, rounded down, at least top_k and at most all."""
    # The epsilon lets 12.5% of 32 be 4 whatever binary fractions make of it.
    return tuple(min(layer.experts, max(layer.top_k, int(share * layer.experts + 1e-9))) for layer in layers)


def slots_for_bytes(layers: Sequence[ExpertLayer], nbytes: float) -> tuple[int, ...]:
    """Returns whole slots per layer for the largest share that keeps within `nbytes`, top_k of each at least.

    Where layers differ, some need more than their share for top_k: what they take is missing in the share of all.
    """
    low, high = 0.0, min(1.0, nbytes / sum(layer.experts * layer.expert_nbytes for layer in layers))
    if cache_bytes(layers, slots := slots_for_share(layers, high)) <= nbytes:
        return slots
    for _ in range(50):
        middle = (low + high) / 2
        if cache_bytes(layers, slots_for_share(layers, middle)) <= nbytes:
            low = middle
        else:
            high = middle
    return slots_for_share(layers, low)


def cache_bytes(layers: Sequence[ExpertLayer], slots: Sequence[int]) -> int:
    """Returns the bytes of the banks."""
    return sum(layer.expert_nbytes * count for layer, count in zip(layers, slots, strict=True))


def plan_memory(
    layers: Sequence[ExpertLayer],
    cap: Cap,
    *,
    resident_weights: int,
    kv_cache: int,
    available: int,
    per_layer_extra: int = 0,
    beside: int = 0,
    held: int = 0,
    comfortable: int | None = None,
) -> MemoryPlan:
    """Chooses the slots of each layer.

    Args:
        layers: The MoE layers.
        cap: What was asked for.
        resident_weights: Bytes of every weight that is no routed expert.
        kv_cache: Bytes of the KV cache to come.
        available: Memory that may be used, in bytes.
        per_layer_extra: Bytes, over all layers, of staging and audit buffers.
        beside: Bytes of what else this process holds.
        held: Bytes that experts have already: no smaller cache is refused for want of room, least of all under
            memory pressure.
        comfortable: Memory, in bytes, that a cap of "auto" keeps within though more may be used; None for no such.

    Raises:
        DoesNotFitError: below top_k slots a layer, or above what memory holds; names both ends.
    """
    total = sum(layer.nbytes for layer in layers)
    floor = cache_bytes(layers, [layer.top_k for layer in layers])
    mlx_cache = mlx_cache_bytes(available)
    ceiling = available - resident_weights - kv_cache - mlx_cache - per_layer_extra - beside
    largest = min(total, max(0, ceiling))

    more = f" and {show_bytes(per_layer_extra)} of staging buffers" if per_layer_extra else ""
    more += f" and {show_bytes(beside)} of another model" if beside else ""

    def refuse(what: str) -> DoesNotFitError:
        ends = f"the smallest expert cache is {show_bytes(floor)} (top_k experts a layer, {floor / total:.1%})"
        if largest >= floor:
            ends += f", the largest that fits here {show_bytes(largest)} ({largest / total:.0%} of {show_bytes(total)})"
        else:
            ends += (
                f", and only {show_bytes(max(0, ceiling))} are left here beside {show_bytes(resident_weights)} of "
                f"resident weights and {show_bytes(kv_cache)} of KV cache{more}: free memory, or choose a smaller "
                "model or --max-kv-size"
            )
        return DoesNotFitError(f"{what}: {ends}")

    if cap.share is not None:
        if cap.share * total < floor - 1:
            raise refuse(f"an expert cache of {100 * cap.share:.5g}% is too small")
        slots = slots_for_share(layers, cap.share)
    elif cap.nbytes is not None:
        if cap.nbytes < floor:
            raise refuse(f"an expert cache of {show_bytes(cap.nbytes)} is too small")
        slots = slots_for_bytes(layers, cap.nbytes)
    else:
        spare = available * _HEADROOM_SHARE
        if comfortable is not None:
            spare = max(spare, available - comfortable)
        slots = slots_for_bytes(layers, max(floor, ceiling - spare))
    wanted = cache_bytes(layers, slots)
    if wanted > max(ceiling, held):
        raise refuse(f"an expert cache of {show_bytes(wanted)} does not fit")
    return MemoryPlan(
        slots=slots,
        expert_cache=wanted,
        resident_weights=resident_weights,
        kv_cache=kv_cache,
        mlx_cache=mlx_cache,
        available=available,
        extra=per_layer_extra,
        beside=beside,
        experts_total=total,
    )
