"""Version 2 of the store: the same experts in parts and row blocks, from a checkpoint or from a store of version 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from moe_mlx.errors import MoeMlxError, UnsupportedModelError, UsageError
from moe_mlx.store import StoreSource, open_source
from moe_mlx.store.parts import HIGH_BITS, MOST_ROW_BLOCKS
from moe_mlx_convert import convert, upgrade, verify
from tests.checkpoints import GPT_OSS, make_checkpoint
from tests.convert.contents import contents, expert, raw, tensors
from tests.families.configs import config


def mixed(path: str, module: Any) -> Any:
    """Gives each projection bits of its own, as mlx-lm's mixed recipes do."""
    if not hasattr(module, "to_quantized"):
        return False
    return {"group_size": 32, "bits": 6 if "down_proj" in path else 8 if "up_proj" in path else 4, "mode": "affine"}


def affine(bits: int, **more: Any) -> dict[str, Any]:
    return {"quantize": {"group_size": 32, "bits": bits}, "num_hidden_layers": 1, **more}


KINDS: dict[str, dict[str, Any]] = {
    "4 bits": affine(4),
    "4 bits in groups of 64": {"quantize": {"group_size": 64, "bits": 4}, "moe_intermediate_size": 64},
    "4 bits, bfloat16": affine(4, dtype="bfloat16"),
    "4 bits, shards": affine(4, shard_bytes=20_000, num_hidden_layers=2),
    "4 bits, biases of projections": affine(4, config=GPT_OSS),
    "6 bits": affine(6),
    "8 bits": affine(8),
    "mixed bits": affine(4, predicate=mixed),
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unquantised": ({"dtype": "bfloat16"}, r"gate_proj is unquantised \(BF16\)"),
    "mxfp4": ({"quantize": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}, "gate_proj is quantised as mxfp4"),
    "mxfp8": ({"quantize": {"group_size": 32, "bits": 8, "mode": "mxfp8"}}, "gate_proj is quantised as mxfp8"),
    "nvfp4": ({"quantize": {"group_size": 16, "bits": 4, "mode": "nvfp4"}}, "gate_proj is quantised as nvfp4"),
    "2 bits": (affine(2), "gate_proj is quantised to 2 bits"),
    "3 bits": (affine(3), "gate_proj is quantised to 3 bits"),
    "5 bits": (affine(5), "gate_proj is quantised to 5 bits"),
}
HOW = {"nested": {"nested": True}, "rows": {"row_blocks": 4}, "nested rows": {"nested": True, "row_blocks": 16}}


def assert_same(source: Path, store: Path) -> None:
    """Compares a store's experts with the source's, and the high halves in its files with the codes that MLX has."""
    original = tensors(source)
    with StoreSource.open(store) as opened, open_source(source) as in_place:
        assert opened.layers == in_place.layers
        for index, layout in enumerate(opened.layouts):
            for number in range(layout.layer.experts):
                assert expert(opened, index, number) == expert(in_place, index, number)
            (span,) = opened.byte_ranges(index, 0)
            assert span.path.stat().st_size == span.offset + span.nbytes
            loaded = mx.load(str(span.path))
            for tensor, cut in layout.halves.items():
                spec = layout.layer.tensors[tensor]
                blocks = [f".{b:02d}" for b in range(layout.row_blocks)] if layout.row_blocks > 1 else [""]
                high = b"".join(raw(loaded[f"{spec.name}.high{b}"]) for b in blocks)
                whole = codes(raw(original[f"{layout.layer.path}.{spec.name}"][0]), cut.bits)
                assert np.array_equal(codes(high, cut.high_bits), whole >> cut.low_bits)


def codes(packed: bytes, bits: int) -> np.ndarray:
    """Unpacks codes, the plainest way."""
    each = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little").reshape(-1, bits)
    return (each << np.arange(bits)).sum(1)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, how: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", **KINDS[kind])
    summary = convert(str(source), tmp_path / "store", **HOW[how])
    assert (summary.version, summary.nested, summary.compared) == (2, "nested" in how, True)
    assert_same(source, tmp_path / "store")
    report = verify(tmp_path / "store")
    assert report.ok, report.damage
    if kind == "mixed bits" and how == "nested":
        with StoreSource.open(tmp_path / "store") as opened:
            assert {cut.bits for cut in opened.layouts[0].halves.values()} == set(HIGH_BITS)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_split_is_refused_by_name_before_the_first_write(kind: str, tmp_path: Path) -> None:
    made, told = REFUSED[kind]
    source = make_checkpoint(tmp_path / "source", **{"num_hidden_layers": 1, **made})
    before = contents(tmp_path)
    with pytest.raises(UnsupportedModelError, match=rf"switch_mlp\.{told}; only affine weights of 4, 6, 8") as caught:
        convert(str(source), tmp_path / "store", nested=True)
    assert caught.value.exit_code == 2
    assert contents(tmp_path) == before
    convert(str(source), tmp_path / "store", row_blocks=4)
    assert_same(source, tmp_path / "store")


def test_rows_that_do_not_divide_are_refused_by_name(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", moe_intermediate_size=24, num_hidden_layers=1)
    said: list[str] = []
    for blocks in (5, 16):
        with pytest.raises(UnsupportedModelError, match=rf"gate_proj\.weight has the shape.* rows for {blocks} blocks"):
            convert(str(source), tmp_path / "store", row_blocks=blocks)
    for blocks in (-1, MOST_ROW_BLOCKS + 1):
        with pytest.raises(UsageError, match="row blocks: give 1 to 64"):
            convert(str(source), tmp_path / "store", row_blocks=blocks)
    assert not list(tmp_path.glob("store*"))
    assert convert(str(source), tmp_path / "store", row_blocks=0, say=said.append).row_blocks == 8
    assert said == ["8 row blocks, since not every tensor's rows divide by 16"]
    scalars = {"quantize": {"group_size": 16, "bits": 4, "mode": "nvfp4", "global_scale": True}}
    source = make_checkpoint(tmp_path / "scalars", num_hidden_layers=1, **scalars)
    with pytest.raises(UnsupportedModelError, match="global_scale has the shape"):
        convert(str(source), tmp_path / "other", row_blocks=2)


def test_more_digests_than_a_manifest_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_checkpoint(tmp_path / "source", num_hidden_layers=1)
    monkeypatch.setattr("moe_mlx_convert.arrangement.MAX_NBYTES", 3_000)
    with pytest.raises(UsageError, match="132 digests of parts and row blocks"):
        convert(str(source), tmp_path / "store", row_blocks=32)
    assert not list(tmp_path.glob("store*"))
    assert convert(str(source), tmp_path / "store", row_blocks=16).row_blocks == 16


def test_bits_that_the_config_gets_wrong_are_told(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", **KINDS["4 bits"])
    path = source / "config.json"
    path.write_text(path.read_text().replace('"bits": 4', '"bits": 8'))
    with pytest.raises(MoeMlxError, match=r"its shapes .* do not fit"):
        convert(str(source), tmp_path / "store", nested=True)
    assert not list(tmp_path.glob("store*"))


@pytest.mark.parametrize("how", HOW)
def test_an_upgraded_store_is_the_converted_one(how: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", **KINDS["4 bits, shards"])
    (source / "README.md").write_text("read me")
    convert(str(source), tmp_path / "one")
    convert(str(source), tmp_path / "two", **HOW[how])
    before = contents(tmp_path / "one")
    summary = upgrade(tmp_path / "one", **HOW[how])
    assert (summary.method, summary.version, summary.destination) == ("upgrade", 2, str(tmp_path / "one-v2"))
    assert contents(tmp_path / "one-v2") == contents(tmp_path / "two")
    assert contents(tmp_path / "one") == before
    with pytest.raises(UsageError, match="already of version 2"):
        upgrade(tmp_path / "two", **HOW[how])


@pytest.mark.parametrize(("before", "after"), [("nested", "rows"), ("rows", "nested rows"), ("nested rows", "nested")])
def test_a_store_of_version_2_is_laid_out_otherwise(before: str, after: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", **KINDS["4 bits, shards"])
    for how in (before, after):
        convert(str(source), tmp_path / how, **HOW[how])
    kept = contents(tmp_path / before)
    summary = upgrade(tmp_path / before, tmp_path / "made", **HOW[after])
    assert (summary.method, summary.nested) == ("upgrade", "nested" in after)
    assert contents(tmp_path / "made") == contents(tmp_path / after)
    assert contents(tmp_path / before) == kept


def test_experts_that_are_stacked_while_loading_are_laid_out_too(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", config("mixtral"), quantize={"group_size": 32, "bits": 4})
    convert(str(source), tmp_path / "two", **HOW["nested"])
    published = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    weights: dict[str, mx.array] = {}
    for name, array in tensors(source).items():
        head, stacked, tail = name.partition(".switch_mlp.")
        projection, _, part = tail.partition(".")
        rows = {f"{head}.experts.{e}.{published.get(projection)}.{part}": row for e, row in enumerate(array)}
        weights |= rows if stacked else {name: array}
    mx.eval(weights)
    for path in source.glob("model*"):
        path.unlink()
    mx.save_safetensors(str(source / "model.safetensors"), weights)
    assert convert(str(source), tmp_path / "store", **HOW["nested"]).method == "arrays"
    assert verify(tmp_path / "store").ok
    found, expected = (
        {name: data for name, data in contents(tmp_path / made).items() if name.startswith("experts/")}
        for made in ("store", "two")
    )
    assert found == expected
