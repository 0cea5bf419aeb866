"""A store holds the checkpoint's own bytes, for every dtype and quantisation, from one shard or many, through links."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from moe_mlx.store import StoreSource, open_source
from moe_mlx_convert import convert, verify
from tests.checkpoints import GPT_OSS, QWEN3_MOE, make_checkpoint
from tests.convert.contents import contents, expert, raw, tensors


def mixed(path: str, module: Any) -> Any:
    """Gives every layer another quantisation, and leaves one unquantised."""
    if not hasattr(module, "to_quantized"):
        return False
    if "layers.1" in path:
        return "down_proj" in path and {"group_size": 32, "bits": 8, "mode": "affine"}
    return {"group_size": 32, "bits": 3 if "gate_proj" in path else 6, "mode": "affine"}


KINDS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "affine4": {"quantize": {"group_size": 32, "bits": 4}},
    "affine4-bfloat16": {"dtype": "bfloat16", "quantize": {"group_size": 32, "bits": 4}},
    "affine8": {"quantize": {"group_size": 64, "bits": 8}},
    "affine3": {"quantize": {"group_size": 32, "bits": 3}, "moe_intermediate_size": 64},
    "mxfp4": {"quantize": {"group_size": 32, "bits": 4, "mode": "mxfp4"}},
    "mxfp8": {"quantize": {"group_size": 32, "bits": 8, "mode": "mxfp8"}},
    "nvfp4": {"quantize": {"group_size": 16, "bits": 4, "mode": "nvfp4"}},
    "nvfp4-global-scales": {"quantize": {"group_size": 16, "bits": 4, "mode": "nvfp4", "global_scale": True}},
    "projection-biases": {"config": GPT_OSS},
    "projection-biases-mxfp4": {"config": GPT_OSS, "quantize": {"group_size": 32, "bits": 4, "mode": "mxfp4"}},
    "mixed": {"quantize": {"group_size": 32, "bits": 4}, "predicate": mixed, "num_hidden_layers": 3},
    "shards": {"quantize": {"group_size": 32, "bits": 4}, "shard_bytes": 20_000},
    "leading-dense": {"mlp_only_layers": [0], "num_hidden_layers": 3},
}


def assert_same(source: Path, store: Path) -> None:
    """Compares a store with the tensors that MLX reads from its source, through our reader and through MLX's."""
    original = tensors(source)
    left = dict(original)
    with open_source(store) as opened, open_source(source) as in_place:
        assert isinstance(opened, StoreSource)
        assert opened.layers == in_place.layers
        assert opened.experts_nbytes == in_place.experts_nbytes
        assert opened.resident_nbytes == in_place.resident_nbytes
        for layer in opened.layers:
            for number in range(layer.experts):
                read = expert(opened, layer.index, number)
                assert read == expert(in_place, layer.index, number)
                (span,) = opened.byte_ranges(layer.index, number)
                assert span.offset % 16_384 == 0
                assert span.path.stat().st_size == span.offset + span.nbytes
                loaded = mx.load(str(span.path))
                assert set(loaded) == {t.name for t in layer.tensors}
                for tensor, got in zip(layer.tensors, read, strict=True):
                    row = original[f"{layer.path}.{tensor.name}"][number]
                    assert got == raw(row)
                    assert loaded[tensor.name].dtype == row.dtype
                    assert raw(loaded[tensor.name]) == got
            for tensor in layer.tensors:
                del left[f"{layer.path}.{tensor.name}"]
    resident = tensors(store)
    assert set(resident) == set(left)
    for name, array in left.items():
        assert resident[name].dtype == array.dtype
        assert resident[name].shape == array.shape
        assert raw(resident[name]) == raw(array)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", **KINDS[kind])
    summary = convert(str(source), tmp_path / "store")
    assert summary.method == "bytes"
    assert summary.compared
    assert_same(source, tmp_path / "store")
    assert (tmp_path / "store/config.json").read_bytes() == (source / "config.json").read_bytes()
    assert verify(tmp_path / "store").ok
    assert not (tmp_path / "store.partial").exists()


def test_layers_keep_the_models_own_numbers(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", **KINDS["leading-dense"])
    convert(str(source), tmp_path / "store")
    with open_source(tmp_path / "store") as store:
        assert [(layer.index, layer.layer) for layer in store.layers] == [(0, 1), (1, 2)]
    assert sorted(p.name for p in (tmp_path / "store/experts").iterdir()) == ["layer-001", "layer-002"]


def test_a_hub_snapshot_of_links_is_followed_and_named(tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--model"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    blobs = make_checkpoint(repository / "blobs", shard_bytes=60_000)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    summary = convert(str(snapshot), tmp_path / "store")
    assert (summary.source, summary.revision) == ("owner/model", "a" * 40)
    assert_same(blobs, tmp_path / "store")
    assert not any(path.is_symlink() for path in (tmp_path / "store").rglob("*"))


def test_the_result_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", shard_bytes=60_000)
    convert(str(source), tmp_path / "one", workers=1)
    convert(str(source), tmp_path / "two", workers=4, compare=False)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_small_files_go_along_and_code_only_where_it_is_named(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source")
    for name in ("tokenizer.json", "chat_template.jinja", "merges.txt", "LICENSE", "special_tokens_map.json"):
        (source / name).write_text(f'"{name}"')
    (source / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["tok.Tok", None]}}))
    (source / "tok.py").write_text("from .vocabulary import x\n")
    (source / "vocabulary.py").write_text("x = 1\n")
    (source / "stray.py").write_text("raise SystemExit\n")
    (source / "pytorch_model.bin").write_bytes(b"weights of another kind")
    (source / ".hidden.json").write_text("{}")
    convert(str(source), tmp_path / "store")
    names = {p.name for p in (tmp_path / "store").iterdir()}
    assert names >= {"tokenizer.json", "chat_template.jinja", "merges.txt", "LICENSE", "tok.py", "vocabulary.py"}
    assert not names & {"stray.py", "pytorch_model.bin", ".hidden.json"}


def test_resident_weights_are_split_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_mlx_convert.plan.MAX_SHARD_NBYTES", 40_000)
    source = make_checkpoint(tmp_path / "source", QWEN3_MOE)
    convert(str(source), tmp_path / "store")
    shards = sorted(p.name for p in (tmp_path / "store").glob("model*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    index = json.loads((tmp_path / "store/model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    assert_same(source, tmp_path / "store")


def test_a_store_may_be_moved(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source")
    convert(str(source), tmp_path / "store")
    shutil.move(tmp_path / "store", tmp_path / "elsewhere")
    assert_same(source, tmp_path / "elsewhere")
