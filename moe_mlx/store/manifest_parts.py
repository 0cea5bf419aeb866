"""What a manifest of version 2 says of a layer's files beyond version 1: halves, row blocks, parts, their digests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from moe_mlx.store.layout import StoredLayer
from moe_mlx.store.parts import MOST_ROW_BLOCKS, ExpertLayout, Halves, layout_of
from moe_mlx.store.spec import ExpertLayer


def described(stored: StoredLayer) -> dict[str, Any]:
    """Returns the fields that version 2 adds to a layer."""
    layout = stored.layout
    return {
        "row_blocks": layout.row_blocks,
        "halves": [[tensor, *cut] for tensor, cut in layout.halves.items()],
        "parts": [{"name": part.name, "nbytes": part.nbytes} for part in layout.parts],
        "part_digests": " ".join(stored.part_digests),
    }


def read_layout(table: Any, layer: ExpertLayer, what: str, fail: Callable[[str], NoReturn]) -> ExpertLayout:
    """Returns how a layer's experts lie in their files.

    Args:
        table: What the manifest says of the layer.
        layer: The same, read and checked.
        what: The layer, in complaints.
        fail: Takes a complaint and raises it.
    """
    row_blocks, cuts, parts = table.get("row_blocks"), table.get("halves"), table.get("parts")
    if type(row_blocks) is not int or not 1 <= row_blocks <= MOST_ROW_BLOCKS:
        fail(f"{what} has row_blocks = {str(row_blocks)[:80]!r}")
    if not isinstance(cuts, list) or len(cuts) > len(layer.tensors) or not all(map(_is_cut, cuts)):
        fail(f"{what} has halves = {str(cuts)[:80]!r}")
    halves = {cut[0]: Halves(cut[1], cut[2]) for cut in cuts}
    if len(halves) != len(cuts) or list(halves) != sorted(halves):
        fail(f"{what} cuts a tensor twice, or out of order")
    try:
        layout = layout_of(layer, halves, row_blocks)
    except ValueError as error:
        fail(f"{what}: {str(error)[:200]}")
    if parts != [{"name": part.name, "nbytes": part.nbytes} for part in layout.parts]:
        fail(f"{what}: its parts disagree with its tensors")
    return layout


def _is_cut(cut: object) -> bool:
    return isinstance(cut, list) and len(cut) == 3 and all(type(n) is int for n in cut)
