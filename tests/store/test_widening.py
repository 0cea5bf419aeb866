"""Codes of two and three bits, widened to four: MLX's own packing, and back, in Python and in the primitive's words."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mlx.store.layout import narrower_of
from moe_mlx.store.parts import layout_of
from moe_mlx.store.rearrange import fill, pieces_of
from moe_mlx.store.widening import narrow, widen
from tests.fewer_bits import packed_as_four
from tests.store.layers import layer_of


@pytest.mark.parametrize("bits", [2, 3])
@given(st.data())
def test_codes_are_widened_and_narrowed(bits: int, data: st.DataObject) -> None:
    rows, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    weight = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(rows, 32 * groups)).astype(np.float32)
    codes = np.array(mx.quantize(mx.array(weight), 32, bits)[0])
    few, whole = codes.view(np.uint8), np.empty((rows, 16 * groups), np.uint8)
    widen(bits, few, whole)
    assert np.array_equal(whole.view(np.uint32), packed_as_four(codes, bits))
    assert np.array_equal(narrow(bits, whole), few)


@pytest.mark.parametrize(("bits", "largest"), [(2, 3), (3, 7)])
def test_a_code_that_does_not_fit_is_told(bits: int, largest: int) -> None:
    for place in range(8):
        word = np.full((1, 4), 0, np.uint8)
        word.view("<u4")[:] = largest << 4 * place
        narrow(bits, word)
        word.view("<u4")[:] = largest + 1 << 4 * place
        with pytest.raises(ValueError, match=f"more than {bits} bits"):
            narrow(bits, word)


def test_large_weights_go_in_pieces() -> None:
    codes = np.random.default_rng(0).integers(0, 8, (3, 1 << 18), np.uint8)
    whole = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
    again = np.empty_like(whole)
    widen(3, narrow(3, whole), again)
    assert np.array_equal(again, whole)


@pytest.mark.parametrize("row_blocks", [1, 4])
@pytest.mark.parametrize("bits", [2, 3])
def test_an_expert_is_laid_out_and_filled(bits: int, row_blocks: int) -> None:
    layer = layer_of(4)
    chance = np.random.default_rng(1)
    tensors = []
    for spec in layer.tensors:
        data = chance.integers(0, 256, spec.nbytes, np.uint8)
        tensors.append((data & (0x33 if bits == 2 else 0x77) if spec.dtype == "U32" else data).tobytes())
    layout = layout_of(layer, row_blocks=row_blocks, bits=bits)
    assert layout.nbytes < layer.expert_nbytes
    file = bytearray(layout.nbytes)
    for number, tensor in enumerate(tensors):
        for at, piece in pieces_of(layout, number, tensor):
            file[at : at + piece.nbytes] = piece
    buffers = [bytearray(spec.nbytes) for spec in layer.tensors]
    fill(layout, file, buffers)
    assert [bytes(buffer) for buffer in buffers] == tensors


def test_what_cannot_be_narrow_is_told() -> None:
    layer = layer_of(4)
    for bits in (1, 5):
        with pytest.raises(ValueError, match=f"codes of {bits} bits"):
            layout_of(layer, bits=bits)
    float_layer = replace(layer, tensors=tuple(replace(spec, dtype="F16") for spec in layer.tensors))
    with pytest.raises(ValueError, match="is no packed weight of 4 bits"):
        layout_of(float_layer, bits=3)
    odd = replace(layer, tensors=(replace(layer.tensors[0], shape=(4, 6)), *layer.tensors[1:]))
    with pytest.raises(ValueError, match="is no packed weight of 4 bits"):
        layout_of(odd, bits=2)


def test_headers_of_all_widths_end_alike() -> None:
    """In row blocks too, where a header nearly fills its page."""
    for blocks in (1, 4, 16, 32):
        layer = layer_of(4, 64, 64)
        assert set(narrower_of(layout_of(layer, row_blocks=blocks), (2, 3, 4))) == {2, 3}
