"""Codes of few bits, widened to those that a weight has in memory, and the reverse: what version 3 of the store keeps.

A weight of 4 bits whose codes all stay below 2^w says the same with w bits a code. MLX packs codes of any width as one
stream of bits, the first code in the lowest bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moe_mlx.store.codes import Bytes
from moe_mlx.store.parts import HELD_BITS

#: Bytes of a widened weight that are worked on at a time: what is computed on the way stays in a core's cache.
_CHUNK_NBYTES = 196_608
#: What of a word of eight codes no code of so few bits sets.
_TOO_LARGE = {2: 0xCCCCCCCC, 3: 0x88888888}
#: Eight codes of three bits, moved apart in halves: what stays, what moves, and by how much.
_THREE = ((0x00000FFF, 0x00FFF000, 4), (0x003F003F, 0x0FC00FC0, 2), (0x07070707, 0x38383838, 1))
_TWO = ((0x000000FF, 0x0000FF00, 8), (0x000F000F, 0x00F000F0, 4), (0x03030303, 0x0C0C0C0C, 2))
_STEPS = {2: _TWO, 3: _THREE}


def narrow(bits: int, whole: Bytes) -> Bytes:
    """Returns codes of `HELD_BITS` bits with fewer.

    Args:
        bits: Of a code from now on, 2 or 3.
        whole: uint8 `[R, n]`, contiguous, n a multiple of 4.

    Returns:
        uint8 `[R, n * bits / 4]`.

    Raises:
        ValueError: A code needs more bits.
    """
    found = np.empty((len(whole), whole.shape[1] * bits // HELD_BITS), np.uint8)
    for columns, few in _chunks(bits, whole):
        words: NDArray[np.uint32] = whole[:, columns].view("<u4")
        if (words & np.uint32(_TOO_LARGE[bits])).any():
            raise ValueError(f"a code takes more than {bits} bits")
        for stays, moves, shift in _STEPS[bits][::-1]:
            words = words & np.uint32(stays) | words >> np.uint32(shift) & np.uint32(moves)
        _bytes_of(found[:, few], bits)[:] = words.view(np.uint8).reshape(*words.shape, 4)[..., :bits]
    return found


def widen(bits: int, few: Bytes, whole: Bytes) -> None:
    """Fills `whole` with codes that have fewer bits in `few`; the reverse of `narrow`, arrays as there."""
    for columns, narrowed in _chunks(bits, whole):
        packed = _bytes_of(few[:, narrowed], bits)
        words = packed[..., 0].astype(np.uint32)
        for i in range(1, bits):
            words |= packed[..., i].astype(np.uint32) << np.uint32(8 * i)
        for stays, moves, shift in _STEPS[bits]:
            words = words & np.uint32(stays) | (words & np.uint32(moves)) << np.uint32(shift)
        whole[:, columns].view("<u4")[:] = words


def _bytes_of(packed: Bytes, bits: int) -> Bytes:
    """Returns a view `[R, n, bits]`: eight codes are as many bytes as one has bits."""
    return packed.reshape(len(packed), -1, bits)  # only the last axis is cut, so nothing is copied


def _chunks(bits: int, whole: Bytes) -> Iterator[tuple[slice, slice]]:
    """Yields columns to be worked on at once: of the wide codes and of the narrow ones."""
    rows, nbytes = whole.shape
    step = max(HELD_BITS, _CHUNK_NBYTES // rows // HELD_BITS * HELD_BITS)
    for begin in range(0, nbytes, step):
        stop = min(begin + step, nbytes)
        yield slice(begin, stop), slice(begin * bits // HELD_BITS, stop * bits // HELD_BITS)
