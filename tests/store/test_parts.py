"""Experts in parts and row blocks: halves that MLX runs, joined bit for bit; parts and rows read alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mlx.errors import ExpertReadError, UsageError
from moe_mlx.store import StoreSource
from moe_mlx.store.codes import coarse_scales, join, split
from moe_mlx.store.parts import COARSE, COARSE_DOWN, HIGH_BITS, Halves, layout_of
from moe_mlx.store.rearrange import fill, pieces_of
from moe_mlx.store.row_share import RowShare
from moe_mlx.store.spec import ExpertLayer, TensorSpec
from moe_mlx_convert import convert
from tests.checkpoints import make_checkpoint
from tests.convert.contents import expert
from tests.store.layers import layer_of

CUTS = [Halves(bits, high) for bits, high in HIGH_BITS.items()]


def cuts_of(layer: ExpertLayer, cut: Halves) -> dict[int, Halves]:
    return {i: cut for i, spec in enumerate(layer.tensors) if spec.name.endswith(".weight")}


def random_tensors(layer: ExpertLayer, seed: int = 0) -> list[bytes]:
    chance = np.random.default_rng(seed)
    return [chance.integers(0, 256, spec.nbytes, np.uint8).tobytes() for spec in layer.tensors]


@pytest.mark.parametrize("cut", CUTS, ids=str)
@given(st.data())
def test_codes_are_cut_and_joined_bit_for_bit(cut: Halves, data: st.DataObject) -> None:
    rows, words = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    codes = np.array(data.draw(st.lists(st.integers(0, 2**cut.bits - 1), min_size=32, max_size=32)), np.uint8)
    whole = pack(np.tile(codes, rows * words), cut.bits).reshape(rows, -1)
    high = np.zeros((rows, whole.shape[1] * cut.high_bits // cut.bits), np.uint8)
    low = np.zeros((rows, whole.shape[1] - high.shape[1]), np.uint8)
    split(cut, whole, high, low)
    expected = pack(np.tile(codes >> cut.low_bits, rows * words), cut.high_bits).reshape(rows, -1)
    assert np.array_equal(high, expected)
    again = np.zeros_like(whole)
    join(cut, high, low, again)
    assert np.array_equal(again, whole)


@pytest.mark.parametrize(("rows", "words"), [(1, 13_000), (5, 15_000)])
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_long_weights_are_cut_piece_by_piece(cut: Halves, rows: int, words: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2**cut.bits, 32 * words, np.uint8)
    whole = pack(codes, cut.bits).reshape(rows, -1)
    high = np.zeros((rows, whole.shape[1] * cut.high_bits // cut.bits), np.uint8)
    low = np.zeros((rows, whole.shape[1] - high.shape[1]), np.uint8)
    split(cut, whole, high, low)
    assert np.array_equal(high.ravel(), pack(codes >> cut.low_bits, cut.high_bits))
    assert np.array_equal(low.ravel(), pack(codes & (2**cut.low_bits - 1), cut.low_bits))
    again = np.zeros_like(whole)
    join(cut, high, low, again)
    assert np.array_equal(again, whole)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Packs codes as one stream of bits, the plainest way."""
    return np.packbits((codes[:, None] >> np.arange(bits) & 1).astype(np.uint8).ravel(), bitorder="little")


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_high_half_is_a_weight_that_mlx_runs(cut: Halves) -> None:
    """It differs from the whole one by at most half a step of its own codes."""
    quantised, scales, biases = mx.quantize(mx.random.normal((48, 64), key=mx.random.key(1)), 32, cut.bits)
    whole = np.array(quantised).view(np.uint8).reshape(1, -1)
    high = np.zeros((1, whole.size * cut.high_bits // cut.bits), np.uint8)
    split(cut, whole, high, np.zeros((1, whole.size - high.size), np.uint8))
    s, b = coarse_scales(cut, "F32", memoryview(scales), memoryview(biases))
    coarse = mx.dequantize(
        mx.array(high.view(np.uint32).reshape(48, -1)),
        mx.array(s.view(np.float32).reshape(scales.shape)),
        mx.array(b.view(np.float32).reshape(scales.shape)),
        32,
        cut.high_bits,
    )
    off = mx.abs(coarse - mx.dequantize(quantised, scales, biases, 32, cut.bits)).reshape(48, 2, 32)
    bound = mx.abs(scales)[..., None] * ((2**cut.low_bits - 1) / 2)
    assert bool(mx.all(off <= bound * 1.00001))
    assert float(off.max()) > 0


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_coarse_scales_are_rounded_as_mlx_rounds(dtype: str) -> None:
    kind = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}[dtype]
    s, b = (mx.random.normal((999,), key=mx.random.key(n)).astype(kind) for n in (1, 2))
    bits = [memoryview(np.array(x.view(mx.uint8))) for x in (s, b)]
    scales, biases = coarse_scales(Halves(4, 2), dtype, *bits)
    wide = s.astype(mx.float32), b.astype(mx.float32)
    assert bytes(scales) == bytes(np.array((wide[0] * 4).astype(kind).view(mx.uint8)))
    assert bytes(biases) == bytes(np.array((wide[1] + wide[0] * 1.5).astype(kind).view(mx.uint8)))


@pytest.mark.parametrize("blocks", [1, 2, 16])
@pytest.mark.parametrize("cut", [None, *CUTS], ids=str)
def test_an_expert_laid_out_comes_back(cut: Halves | None, blocks: int) -> None:
    layer = layer_of(cut.bits if cut else 4)
    layout = layout_of(layer, cuts_of(layer, cut) if cut else None, blocks)
    tensors, file = random_tensors(layer), bytearray(layer.expert_nbytes)
    for number, tensor in enumerate(tensors):
        for at, piece in pieces_of(layout, number, tensor):
            file[at : at + piece.nbytes] = piece
    assert sum(layout.part_nbytes) == len(file)
    found = [bytearray(spec.nbytes) for spec in layer.tensors]
    fill(layout, file, found)
    assert [bytes(f) for f in found] == tensors
    first, last = blocks // 2, blocks
    rows = range(first, last)
    read = b"".join(bytes(file[run.offset : run.offset + run.nbytes]) for run in layout.runs(blocks=rows))
    found = [bytearray(spec.nbytes * (last - first) // blocks) for spec in layer.tensors]
    fill(layout, read, found, rows)
    for spec, tensor, part in zip(layer.tensors, tensors, found, strict=True):
        assert bytes(part) == tensor[spec.nbytes * first // blocks : spec.nbytes * last // blocks]


def test_a_prefix_is_a_coarse_expert_at_page_boundaries() -> None:
    """Qwen3-30B-A3B's expert: 4 bits in groups of 64, 768 x 2048."""
    tensors = []
    for name, rows, inputs in (("gate", 768, 2048), ("up", 768, 2048), ("down", 2048, 768)):
        tensors.append(TensorSpec(f"{name}_proj.weight", "U32", (rows, inputs // 8)))
        tensors += [TensorSpec(f"{name}_proj.{part}", "BF16", (rows, inputs // 64)) for part in ("scales", "biases")]
    layer = ExpertLayer(0, 0, "model.layers.0.mlp.switch_mlp", 128, 8, tuple(tensors))
    layout = layout_of(layer, cuts_of(layer, Halves(4, 2)))
    assert layout.coarse_nbytes(COARSE) == 1_474_560
    assert layout.coarse_nbytes(COARSE_DOWN) == 1_867_776
    assert layer.expert_nbytes == 2_654_208
    assert all(part.offset % 16_384 == 0 for part in layout.parts)
    assert sum(spec.nbytes for spec in layout.coarse_tensors(COARSE)) == 1_474_560
    assert [spec.shape for spec in layout.coarse_tensors(COARSE_DOWN)][::3] == [(768, 128), (768, 128), (2048, 96)]
    (run,) = layout.runs(0, 2)
    assert (run.offset, run.nbytes) == (0, 1_474_560)
    with pytest.raises(ValueError, match="no coarse form"):
        layout.coarse_nbytes("3")
    with pytest.raises(ValueError, match="no coarse form"):
        layout_of(layer).coarse_nbytes(COARSE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    make_checkpoint(folder / "source", quantize={"group_size": 32, "bits": 4})
    convert(str(folder / "source"), folder / "store", nested=True, row_blocks=4)
    return folder / "store"


def test_parts_and_rows_are_read_alone(made: Path) -> None:
    with StoreSource.open(made) as source:
        layout, whole = source.layouts[1], expert(source, 1, 3)
        data = bytearray(layout.layer.expert_nbytes)
        for number, part in enumerate(layout.parts):
            read = source.read_parts(1, 3, number, number + 1, memoryview(data)[part.offset :][: part.nbytes])
            assert read == part.nbytes
        found = [bytearray(spec.nbytes) for spec in layout.layer.tensors]
        fill(layout, data, found)
        assert [bytes(f) for f in found] == whole
        rows = memoryview(bytearray(layout.layer.expert_nbytes // 2))
        source.read_parts(1, 3, 0, 4, rows, range(1, 3))
        found = [bytearray(spec.nbytes // 2) for spec in layout.layer.tensors]
        fill(layout, rows, found, range(1, 3))
        for spec, tensor, part in zip(layout.layer.tensors, whole, found, strict=True):
            assert bytes(part) == tensor[spec.nbytes // 4 : spec.nbytes * 3 // 4]
        for wrong in (range(0, 5), range(2, 2), range(0, 4, 2)):
            with pytest.raises(ValueError, match="row blocks"):
                source.read_parts(1, 3, 0, 4, rows, wrong)
        with pytest.raises(ValueError, match="a buffer of"):
            source.read_parts(1, 3, 0, 3, rows)


@pytest.mark.parametrize("number", range(4))
def test_a_damaged_part_is_told_by_its_name(number: int, made: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(made, tmp_path / "store"))
    path = store / "experts/layer-001/expert-002.safetensors"
    with StoreSource.open(store) as source:
        layout, offset = source.layouts[1], source.byte_ranges(1, 2)[0].offset
        part = layout.parts[number]
        contents = bytearray(path.read_bytes())
        contents[offset + part.offset + part.block_nbytes] ^= 1  # the first byte of its second block
        path.write_bytes(contents)
        told = f"part {part.name}, row block 1: digest is"
        with pytest.raises(ExpertReadError, match=told) as caught:
            expert(source, 1, 2)
        assert (caught.value.layer, caught.value.expert, caught.value.path) == (1, 2, path)
        room = memoryview(bytearray(layout.layer.expert_nbytes))
        for other, good in enumerate(layout.parts):
            if other != number:
                source.read_parts(1, 2, other, other + 1, room[: good.nbytes])
        with pytest.raises(ExpertReadError, match=told):
            source.read_parts(1, 2, number, number + 1, room[: part.nbytes])
        source.read_parts(1, 2, number, number + 1, room[: part.block_nbytes], range(2, 3))


@pytest.mark.parametrize("blocks", [range(0, 1), range(1, 4), range(0, 4)], ids=str)
def test_a_machine_s_share_reads_its_rows_alone(blocks: range, made: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(made, tmp_path / "store"))
    with RowShare(StoreSource.open(store), blocks) as share, StoreSource.open(made) as whole:
        for layer, full in zip(share.layers, whole.layers, strict=True):
            assert layer.expert_nbytes * 4 == full.expert_nbytes * len(blocks)
            for number in range(layer.experts):
                for spec, got, tensor in zip(
                    full.tensors, expert(share, layer.index, number), expert(whole, layer.index, number), strict=True
                ):
                    assert got == tensor[spec.nbytes * blocks.start // 4 : spec.nbytes * blocks.stop // 4]
        assert len(share.byte_ranges(0, 0)) == (1 if len(blocks) == 4 else len(share.layouts[0].parts))
        path = store / "experts/layer-000/expert-001.safetensors"
        contents = bytearray(path.read_bytes())
        part = share.layouts[0].parts[1]
        contents[whole.byte_ranges(0, 1)[0].offset + part.offset] ^= 1  # of the first block
        path.write_bytes(contents)
        if 0 in blocks:
            with pytest.raises(ExpertReadError, match="part high, row block 0"):
                expert(share, 0, 1)
        else:
            assert expert(share, 0, 1)


def test_a_share_of_what_has_no_rows_is_refused(made: Path) -> None:
    for blocks in (range(0, 5), range(2, 2), range(0, 4, 2), range(-1, 2)):
        with StoreSource.open(made) as store, pytest.raises(UsageError, match="in 4 row blocks"):
            RowShare(store, blocks)
