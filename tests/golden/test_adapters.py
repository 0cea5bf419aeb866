"""LoRA adapters: on what is resident they work as in mlx-lm; on routed experts they are refused by name."""

import json
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

import moe_mlx
from moe_mlx.errors import StoreCorruptError, StoreMissingError, UsageError
from tests.checkpoints import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("model"))


def adapter(checkpoint: Path, folder: Path, keys: list[str]) -> Path:
    """Saves a random adapter on the layers called `keys`, in mlx-lm's form."""
    folder.mkdir()
    model, _ = mlx_lm.load(str(checkpoint))
    model.freeze()
    settings = {"rank": 4, "scale": 8.0, "dropout": 0.0, "keys": keys}
    linear_to_lora_layers(model, len(model.layers), settings)
    chance = np.random.default_rng(0)
    weights = {
        name: mx.array(chance.normal(size=value.shape).astype(np.float32))
        for name, value in tree_flatten(model.trainable_parameters())
    }
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    told = {"fine_tune_type": "lora", "num_layers": len(model.layers), "lora_parameters": settings}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def load(checkpoint: Path, **options):
    return moe_mlx.load(checkpoint, expert_cache="50%", say=lambda line: None, **{"routing": "exact", **options})[0]


@pytest.mark.parametrize("keys", [["self_attn.q_proj", "self_attn.v_proj"], ["mlp.gate"]], ids=["attention", "router"])
def test_an_adapter_on_resident_weights_is_bit_equal(checkpoint: Path, tmp_path: Path, keys: list[str]):
    folder = adapter(checkpoint, tmp_path / "adapter", keys)
    theirs, _ = mlx_lm.load(str(checkpoint), adapter_path=str(folder))
    ours, plain = load(checkpoint, adapter_path=str(folder)), load(checkpoint)
    tokens = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    assert mx.array_equal(ours(tokens), theirs(tokens))
    assert mx.array_equal(ours(tokens[:, :1]), theirs(tokens[:, :1]))
    assert not mx.array_equal(ours(tokens), plain(tokens))


def test_a_router_adapter_steers_cache_aware_routing_too(checkpoint: Path, tmp_path: Path):
    folder = adapter(checkpoint, tmp_path / "adapter", ["mlp.gate"])
    theirs, _ = mlx_lm.load(str(checkpoint), adapter_path=str(folder))
    ours = load(checkpoint, adapter_path=str(folder), routing="cache-prior", route_lambda=0.0001)
    for token in range(8):
        step = mx.array([[token]])
        if not moe_mlx.stats(ours).decode.swapped:
            assert mx.allclose(ours(step), theirs(step), atol=1e-5)


def test_an_adapter_on_routed_experts_is_refused_by_name(checkpoint: Path, tmp_path: Path):
    folder = adapter(checkpoint, tmp_path / "adapter", ["mlp.switch_mlp.gate_proj"])
    with pytest.raises(UsageError, match=r"switch_mlp\.gate_proj.*mlx_lm\.fuse"):
        load(checkpoint, adapter_path=str(folder))


def test_a_missing_or_broken_adapter_says_so(checkpoint: Path, tmp_path: Path):
    with pytest.raises(StoreMissingError, match="adapter_config"):
        load(checkpoint, adapter_path=str(tmp_path))
    folder = adapter(checkpoint, tmp_path / "adapter", ["self_attn.q_proj"])
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(StoreCorruptError, match="cannot apply"):
        load(checkpoint, adapter_path=str(folder))
