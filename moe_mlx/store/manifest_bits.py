"""What a manifest of version 3 says of a layer beyond version 2: the bits of each expert, and what that cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from moe_mlx.store.layout import StoredLayer, narrower_of
from moe_mlx.store.parts import WIDTHS, ExpertLayout, held_of


class Bits(NamedTuple):
    """As the fields of the same names of `StoredLayer`."""

    bits: tuple[int, ...]
    error: float | None
    narrower: dict[int, ExpertLayout]


def described(stored: StoredLayer) -> dict[str, Any]:
    """Returns the fields that version 3 adds to a layer."""
    return {"held_bits": held_of(stored.bits), "bits": "".join(map(str, stored.bits)), "error": stored.error}


def read_bits(table: Any, layout: ExpertLayout, what: str, fail: Callable[[str], NoReturn]) -> Bits:
    """Returns the bits of a layer's experts.

    Args:
        table: What the manifest says of the layer.
        layout: How an expert that has all of them lies in its file.
        what: The layer, in complaints.
        fail: Takes a complaint and raises it.
    """
    text, error, held = table.get("bits"), table.get("error"), table.get("held_bits")
    known = {str(bits) for bits in WIDTHS}
    if not isinstance(text, str) or len(text) != layout.layer.experts or not set(text) <= known:
        fail(f"{what} has bits = {str(text)[:80]!r} for {layout.layer.experts} experts")
    if type(held) is not int or held != held_of(tuple(map(int, text))):
        fail(f"{what} has held_bits = {str(held)[:80]!r}")
    if error is not None and (type(error) not in (int, float) or not math.isfinite(error) or error < 0):
        fail(f"{what} has error = {str(error)[:80]!r}")
    if layout.nested:
        fail(f"{what} has experts of fewer bits and halves")
    bits = tuple(map(int, text))
    try:
        return Bits(bits, None if error is None else float(error), narrower_of(layout, bits))
    except ValueError as problem:
        fail(f"{what}: {str(problem)[:200]}")
