"""Gradients through experts that come and go, against mlx-lm's own model on the same weights, for every family."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm import load as load_resident

import moe_mlx
from moe_mlx.errors import ExpertReadError
from tests.checkpoints import tiny_checkpoint
from tests.families.configs import FAMILIES

#: Families that mlx-lm itself cannot differentiate, or not without Metal.
IMPOSSIBLE = {"deepseek_v41", "muse_spark"}
#: Each differs in router or switch; the others run with the slow tests.
SAMPLE = ("qwen3_moe", "gpt_oss", "dbrx", "longcat_flash")
TOKENS = mx.array(np.random.default_rng(0).integers(0, 120, (2, 12)))


@pytest.fixture(autouse=True)
def uncompiled():
    """As training runs: a compiled step cannot ask which experts it needs."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def learning(model):
    """Everything frozen but norms and routers, whose gradients come from every layer above them."""
    model.freeze()
    for name, module in model.named_modules():
        if isinstance(module, nn.RMSNorm | nn.LayerNorm) or name.endswith((".gate", ".router")):
            module.unfreeze(strict=False)
    model.train()
    return model


def loss_and_gradients(model):
    def loss(model):
        return nn.losses.cross_entropy(model(TOKENS[:, :-1]), TOKENS[:, 1:]).mean()

    value, gradients = nn.value_and_grad(learning(model), loss)(model)
    mx.eval(value, gradients)
    return value.item(), dict(tree_flatten(gradients))


def compare(folder: Path, cap: str):
    wanted, expected = loss_and_gradients(load_resident(str(folder))[0])
    model, _ = moe_mlx.load(folder, expert_cache=cap, routing="exact", decode="readback", say=lambda line: None)
    runtime = moe_mlx.runtime_of(model)
    try:
        value, found = loss_and_gradients(model)
        assert value == wanted  # forward, bit for bit
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            scale = float(mx.abs(gradient).max()) + 1e-9
            assert float(mx.abs(found[name] - gradient).max()) <= 5e-6 * scale, name
        return runtime.stats.prefill, runtime.slots_per_layer
    finally:
        runtime.close()


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in SAMPLE else pytest.mark.slow) for f in FAMILIES])
def test_the_same_loss_and_gradients_as_resident(family, tmp_path):
    if family in IMPOSSIBLE:
        pytest.skip("mlx-lm's own model cannot be differentiated here")
    folder = tiny_checkpoint(family, tmp_path / "model")
    resident = load_resident(str(folder))[0]
    if not tree_flatten(learning(resident).trainable_parameters()):
        pytest.skip("no norm and no router of MLX's own in this family")
    compare(folder, "50%")


@pytest.mark.parametrize("cap", ["20%", "60%", "100%"])
def test_at_every_cap(cap, tmp_path):
    counted, slots = compare(tiny_checkpoint("qwen3_moe", tmp_path / "model"), cap)
    assert counted.tokens == TOKENS.shape[0] * (TOKENS.shape[1] - 1)  # rows count once, reads both ways
    assert (counted.misses > 0) == (cap != "100%")
    if cap == "20%":
        assert counted.misses > 2 * sum(slots)  # in waves, there and back


def test_what_is_read_again_and_cannot_be_is_an_error(tmp_path):
    folder = tiny_checkpoint("qwen3_moe", tmp_path / "model")
    model, _ = moe_mlx.load(folder, expert_cache="20%", routing="exact", decode="readback", say=lambda line: None)
    runtime = moe_mlx.runtime_of(model)
    learning(model)
    read, calls = runtime.layers.pool.start, []

    def fails_on_the_way_back(*args):
        calls.append(args)
        if len(calls) > forward:
            raise ExpertReadError(args[0], 0, folder, "unreadable")
        return read(*args)

    def loss(model):
        return nn.losses.cross_entropy(model(TOKENS[:, :-1]), TOKENS[:, 1:]).mean()

    runtime.layers.pool.start = lambda *args: calls.append(args) or read(*args)
    mx.eval(loss(model))
    forward = len(calls)
    assert forward
    calls.clear()
    runtime.reset()
    runtime.layers.pool.start = fails_on_the_way_back
    with pytest.raises(ExpertReadError, match="unreadable"):
        nn.value_and_grad(model, loss)(model)
    runtime.layers.pool.start = read
    value, _ = nn.value_and_grad(model, loss)(model)
    wanted, _ = loss_and_gradients(load_resident(str(folder))[0])
    assert value.item() == wanted
    runtime.close()


def test_a_model_begins_out_of_training(tmp_path):
    folder = tiny_checkpoint("qwen3_moe", tmp_path / "model")
    model, _ = moe_mlx.load(folder, expert_cache="50%", routing="exact", say=lambda line: None)
    assert not any(module.training for module in model.modules())
    assert not any(cache.inner.training for cache in moe_mlx.runtime_of(model).layers)
    model.train()
    assert all(cache.inner.training for cache in moe_mlx.runtime_of(model).layers)
    moe_mlx.runtime_of(model).close()
