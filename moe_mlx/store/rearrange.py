"""Whole tensors from what an expert's file holds, and the reverse: rows put in their places, halves joined or cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from moe_mlx.store import digest
from moe_mlx.store.codes import Bytes, join, split
from moe_mlx.store.parts import ALL, HIGH, LOW, NARROW, ExpertLayout
from moe_mlx.store.widening import narrow, widen

Buffer = Any  # whatever shows its bytes: memoryview, bytearray, mmap, NumPy array


def pieces_of(layout: ExpertLayout, tensor: int, data: Buffer) -> Iterator[tuple[int, memoryview]]:
    """Yields what one tensor of a whole expert becomes in its file, with each piece's place from the start of the data.

    Args:
        layout: How experts lie in their files.
        tensor: Its number in `layout.layer.tensors`.
        data: The tensor's bytes.

    Raises:
        ValueError: A code takes more bits than the layout has for it.
    """
    rows = {ALL: np.frombuffer(data, np.uint8)}
    if tensor in layout.halves:
        cut, whole = layout.halves[tensor], rows[ALL].reshape(1, -1)
        high = np.empty((1, whole.size * cut.high_bits // cut.bits), np.uint8)
        low = np.empty((1, whole.size - high.size), np.uint8)
        split(cut, whole, high, low)
        rows = {HIGH: high[0], LOW: low[0]}
    elif tensor in layout.narrow:
        rows = {NARROW: narrow(layout.bits, rows[ALL].reshape(1, -1))[0]}
    done = dict.fromkeys(rows, 0)
    for placed in layout.placed[tensor]:
        begin = done[placed.half]
        done[placed.half] += placed.nbytes
        yield placed.at, rows[placed.half][begin : begin + placed.nbytes].data


def fill(layout: ExpertLayout, file: Buffer, buffers: Sequence[Buffer], blocks: range | None = None) -> None:
    """Fills the tensors of an expert, or of some of its rows.

    Args:
        layout: How experts lie in their files.
        file: All parts in the order of the file; of the row blocks in `blocks` alone, as `layout.runs` reads them.
        buffers: One writable, contiguous buffer a tensor, in the order of `layout.layer.tensors`.
        blocks: Consecutive row blocks; by default all.
    """
    for tensor, buffer in enumerate(buffers):
        fill_one(layout, file, tensor, buffer, blocks)


def fill_one(layout: ExpertLayout, file: Buffer, tensor: int, buffer: Buffer, blocks: range | None = None) -> None:
    """Fills one tensor; arguments as of `fill`."""
    chosen = layout.row_blocks if blocks is None else len(blocks)
    places, rows = _places(layout, file, chosen), np.frombuffer(buffer, np.uint8).reshape(chosen, -1)
    if tensor in layout.halves:
        join(layout.halves[tensor], places[tensor, HIGH], places[tensor, LOW], rows)
    elif tensor in layout.narrow:
        widen(layout.bits, places[tensor, NARROW], rows)
    else:
        rows[:] = places[tensor, ALL]


def digests_of(layout: ExpertLayout, file: Buffer) -> tuple[str, ...]:
    """Returns the digests of a whole expert's parts, in the order of its file.

    Args:
        layout: How experts lie in their files.
        file: All parts.
    """
    data, found, begin = memoryview(file), [], 0
    for nbytes in layout.part_nbytes:
        found.append(digest.of([data[begin : begin + nbytes]]))
        begin += nbytes
    return tuple(found)


def _places(layout: ExpertLayout, file: Buffer, blocks: int) -> dict[tuple[int, str], Bytes]:
    """Returns a view `[blocks, bytes]` of every tensor, or half of one, within a file's data."""
    data, found, begin = np.frombuffer(file, np.uint8), {}, 0
    for part in layout.parts:
        nbytes = blocks * part.block_nbytes
        rows = data[begin : begin + nbytes].reshape(blocks, part.block_nbytes)
        at = 0
        for piece in part.pieces:
            found[piece.tensor, piece.half] = rows[:, at : at + piece.nbytes]
            at += piece.nbytes
        begin += nbytes
    return found
