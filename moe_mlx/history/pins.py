"""Pinned experts: those that never give way, named by hand or as the most used of a history. Lossless.

A pin costs a slot that others would have shared: misses say whether it pays (docs/measurements.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_mlx.errors import DoesNotFitError, UsageError
from moe_mlx.history.file import History
from moe_mlx.store import ExpertLayer

#: Why both at once cannot be had.
PINNED_WHOLE = "pinned experts need whole slots, of which coarse light experts leave a token's alone: give one of them"
#: The pinned experts of each MoE layer.
Pins = tuple[frozenset[int], ...]


@dataclass(frozen=True, slots=True)
class PinWish:
    """What is to be pinned.

    Attributes:
        hottest: So many experts of each layer, those that the history has as used most.
        named: Pairs of a layer, by the model's own number, and an expert.
    """

    hottest: int = 0
    named: tuple[tuple[int, int], ...] = ()


def read_pin(text: str | int | None) -> PinWish | None:
    """Reads "4", the four most used of each layer, or "3:17,3:21", experts by layer and number.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    shown = str(text).strip()
    if shown.isdecimal():
        if int(shown) > 0:
            return PinWish(hottest=int(shown))
    else:
        pairs = [pair.split(":") for pair in shown.split(",")]
        if all(len(pair) == 2 and all(part.strip().isdecimal() for part in pair) for pair in pairs):
            return PinWish(named=tuple((int(layer), int(expert)) for layer, expert in pairs))
    raise UsageError(
        f"pin {shown[:80]!r}: give how many of each layer's most used experts are pinned, such as 4, or experts by "
        "layer and number, such as 3:17,3:21"
    )


def pins_of(wish: PinWish, layers: Sequence[ExpertLayer], history: History | None) -> Pins:
    """Returns what is pinned; nothing by use where there is no history.

    Args:
        wish: What was asked for.
        layers: The model's.
        history: What was used; one of each layer.

    Raises:
        UsageError: a layer or an expert that this model does not have.
    """
    if wish.hottest:
        hottest = [layer.hottest()[: wish.hottest] for layer in history] if history else [[]] * len(layers)
        return tuple(map(frozenset, hottest))
    places = {layer.layer: place for place, layer in enumerate(layers)}
    pinned: list[set[int]] = [set() for _ in layers]
    for layer, expert in wish.named:
        if layer not in places:
            raise UsageError(f"pin {layer}:{expert}: layer {layer} has no experts; {_ends(sorted(places))} have")
        if expert >= layers[places[layer]].experts:
            last = layers[places[layer]].experts - 1
            raise UsageError(f"pin {layer}:{expert}: the experts of layer {layer} are 0 to {last}")
        pinned[places[layer]].add(expert)
    return tuple(map(frozenset, pinned))


def _ends(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 8 else f"{numbers[0]} to {numbers[-1]} (not all of them)"


def check_pins(pins: Sequence[int], layers: Sequence[ExpertLayer], slots: Sequence[int]) -> None:
    """Checks that each layer has slots for its pinned experts and one token's.

    Args:
        pins: How many of each layer.
        layers: The model's.
        slots: Of each layer.

    Raises:
        DoesNotFitError: names the layer that has the most too few.
    """
    lacking = [
        (count + layer.top_k - held, layer, count, held)
        for count, layer, held in zip(pins, layers, slots, strict=True)
        if count and held < min(layer.experts, count + layer.top_k)
    ]
    if lacking:
        _, layer, count, held = max(lacking, key=lambda one: one[0])
        raise DoesNotFitError(
            f"layer {layer.layer}: {count} pinned experts and {layer.top_k} (top_k) of a token need "
            f"{count + layer.top_k} slots, and there are {held}: pin fewer, or raise --expert-cache"
        )
