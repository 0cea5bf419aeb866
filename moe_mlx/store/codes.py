"""Codes of quantised weights: cut into high and low bits and joined again, bit for bit.

MLX packs codes of any width as one stream of bits, the first code in the lowest bits. A half is the same stream with
fewer bits a code, so the high half is a weight that MLX runs as it lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_mlx.store.parts import Halves

#: Bytes of a weight that are cut or joined at a time: what is computed on the way stays in a core's cache.
_CHUNK_NBYTES = 196_608

Bytes = NDArray[np.uint8]
#: Shift and mask of each step in which bits that lie side by side are moved apart, and the reverse.
_APART = {
    4: ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333)),
    8: ((8, 0x00FF00FF), (4, 0x0F0F0F0F)),
}
_TOGETHER = {
    4: ((0, 0x33333333), (2, 0x0F0F0F0F), (4, 0x00FF00FF), (8, 0x0000FFFF)),
    8: ((0, 0x0F0F0F0F), (4, 0x00FF00FF), (8, 0x0000FFFF)),
}


def split(halves: Halves, whole: Bytes, high: Bytes, low: Bytes) -> None:
    """Cuts codes into two halves.

    Args:
        halves: How.
        whole: uint8 `[R, n]`: packed codes, a multiple of four bytes (three for six bits) in each row.
        high: uint8 `[R, n * high_bits / bits]`, filled.
        low: uint8 `[R, n * low_bits / bits]`, filled.
    """
    for columns, h, lo in _pieces(halves, whole):
        w, highs, lows = whole[:, columns], high[:, h], low[:, lo]
        if halves.bits == 6:
            _split_six(w, highs, lows)
            continue
        words = w.view("<u4")
        highs.view("<u2")[:] = _together(words >> np.uint32(halves.low_bits), halves.bits)
        lows.view("<u2")[:] = _together(words, halves.bits)


def join(halves: Halves, high: Bytes, low: Bytes, whole: Bytes) -> None:
    """Fills `whole` from its halves; the reverse of `split`, arguments as there."""
    for columns, h, lo in _pieces(halves, whole):
        w, highs, lows = whole[:, columns], high[:, h], low[:, lo]
        if halves.bits == 6:
            _join_six(highs, lows, w)
            continue
        words = _apart(highs.view("<u2"), halves.bits)
        words <<= np.uint32(halves.low_bits)
        words |= _apart(lows.view("<u2"), halves.bits)
        w.view("<u4")[:] = words


def _pieces(halves: Halves, whole: Bytes) -> Iterator[tuple[slice, slice, slice]]:
    """Yields columns to be worked on at once: of the codes, and where their halves lie."""
    rows, nbytes = whole.shape
    step = max(12, _CHUNK_NBYTES // rows // 12 * 12)  # whole words, and whole codes of six bits
    for begin in range(0, nbytes, step):
        stop = min(begin + step, nbytes)
        high, low = (
            slice(begin * bits // halves.bits, stop * bits // halves.bits)
            for bits in (halves.high_bits, halves.low_bits)
        )
        yield slice(begin, stop), high, low


def _apart(packed: NDArray[np.uint16], bits: int) -> NDArray[np.uint32]:
    words = packed.astype(np.uint32)
    for shift, mask in _APART[bits]:
        words |= words << np.uint32(shift)
        words &= np.uint32(mask)
    return words


def _together(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    for shift, mask in _TOGETHER[bits]:
        words = (words | words >> np.uint32(shift)) & np.uint32(mask)
    return words


def _split_six(whole: Bytes, high: Bytes, low: Bytes) -> None:
    """Four codes of six bits are three bytes: two of high halves, one of low ones."""
    three = whole.reshape(len(whole), -1, 3).astype(np.uint32)
    words = three[..., 0] | three[..., 1] << np.uint32(8) | three[..., 2] << np.uint32(16)
    highs, lows = np.zeros_like(words), np.zeros_like(words)
    for i in range(4):
        code = words >> np.uint32(6 * i)
        highs |= (code >> np.uint32(2) & np.uint32(15)) << np.uint32(4 * i)
        lows |= (code & np.uint32(3)) << np.uint32(2 * i)
    high.view("<u2")[:] = highs
    low[:] = lows


def _join_six(high: Bytes, low: Bytes, whole: Bytes) -> None:
    highs, lows = high.view("<u2").astype(np.uint32), low.astype(np.uint32)
    words = np.zeros_like(lows)
    for i in range(4):
        code = (highs >> np.uint32(4 * i) & np.uint32(15)) << np.uint32(2) | lows >> np.uint32(2 * i) & np.uint32(3)
        words |= code << np.uint32(6 * i)
    three = whole.reshape(len(whole), -1, 3)  # a view: only the last axis is cut
    for i in range(3):
        three[..., i] = words >> np.uint32(8 * i)


def coarse_scales(halves: Halves, dtype: str, scales: memoryview, biases: memoryview) -> tuple[Bytes, Bytes]:
    """Returns the scales and biases with which the high half alone is the middle of what its codes may be.

    A weight is `s * q + b` with `q = high * 2^L + low`; its high half is `(s * 2^L) * high + (b + s * (2^L - 1) / 2)`.
    Computed in float32, a product and a sum, and rounded to nearest even to `dtype`.

    Args:
        halves: How the weight's codes are cut.
        dtype: F32, F16 or BF16.
        scales: A weight's scales, any number, contiguous.
        biases: As many biases.

    Returns:
        uint8, as many bytes each as were given.

    Raises:
        ValueError: Another dtype.
    """
    s, b = _floats(dtype, scales), _floats(dtype, biases)
    steps = 1 << halves.low_bits
    return _rounded(dtype, s * np.float32(steps)), _rounded(dtype, b + s * np.float32((steps - 1) / 2))


def _floats(dtype: str, data: memoryview) -> NDArray[np.float32]:
    if dtype == "F32":
        return np.frombuffer(data, "<f4")
    if dtype == "F16":
        return np.frombuffer(data, "<f2").astype(np.float32)
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    raise ValueError(f"scales of dtype {dtype}")


def _rounded(dtype: str, values: NDArray[np.float32]) -> Bytes:
    if dtype == "F32":
        return values.view(np.uint8)
    if dtype == "F16":
        return values.astype("<f2").view(np.uint8)
    bits: Any = values.view(np.uint32)
    even = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    rounded = np.where(np.isnan(values), bits | np.uint32(0x400000), even) >> np.uint32(16)
    return rounded.astype("<u2").view(np.uint8)
