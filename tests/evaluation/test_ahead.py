"""Route ahead, restated on mlx-lm's own Qwen3-MoE model; and what an evaluation makes of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.evaluation.ahead import looking_ahead
from moe_mlx.evaluation.setting import Setting
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.expert_cache.restated import Restated, turns


class AheadOracle(Restated):
    """Every expert is there; which would have been is kept by hand, least recently used first."""

    def __init__(self, model: Any, slots: int, top_j: int, distance: int) -> None:
        self.blocks = [layer.mlp for layer in model.layers if hasattr(layer.mlp, "top_k")]
        self.slots, self.top_j, self.distance = slots, top_j, distance
        self.resident: list[OrderedDict[int, None]] = [OrderedDict() for _ in self.blocks]
        self.inputs: dict[int, mx.array] = {}
        self.misses = self.waited = self.waits = self.wasted = self.swapped = 0

    def block(self, block: Any, x: mx.array) -> mx.array:
        """Computes one token as `Qwen3MoeSparseMoeBlock` does, but for who is chosen."""
        place = next(i for i, known in enumerate(self.blocks) if known is block)
        self.inputs[place] = x
        own = np.argsort(-np.array(block.gate(x)).reshape(-1), kind="stable").tolist()
        early: list[int] = []
        chosen = own[: block.top_k]
        if place >= self.distance:
            before = block.gate(self.inputs[place - self.distance])
            early = np.argsort(-np.array(before).reshape(-1), kind="stable").tolist()[: block.top_k]
            chosen = list(dict.fromkeys([*own[: self.top_j], *early]))[: block.top_k]
        self.swapped += len(set(chosen) - set(own[: block.top_k]))
        resident = self.resident[place]
        absent = [expert for expert in chosen if expert not in resident]
        self.misses += len(absent)
        self.waited += len(set(absent) - set(early))
        self.waits += bool(set(absent) - set(early))
        self.wasted += sum(expert not in resident for expert in early if expert not in chosen)
        for expert in sorted(chosen, key=own.index):
            resident.pop(expert, None)
            resident[expert] = None
        while len(resident) > self.slots:
            resident.popitem(last=False)
        gates = mx.softmax(block.gate(x), axis=-1, precise=True)
        indices = mx.array(chosen, mx.uint32).reshape(*x.shape[:-1], block.top_k)
        weights = mx.take_along_axis(gates, indices, axis=-1)
        if block.norm_topk_prob:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        return (block.switch_mlp(x, indices) * weights[..., None]).sum(axis=-2)


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[tuple[Path, Any]]:
    """A checkpoint of five MoE layers, and its model with half the experts."""
    shape = {"num_hidden_layers": 5, "num_experts_per_tok": 6}
    folder = tiny_checkpoint("qwen3_moe", tmp_path / "deep", quantization=AFFINE4, **shape)
    settings: dict[str, Any] = {"expert_cache": "50%", "routing": "exact", "decode": "readback"}
    model, _ = moe_mlx.load(folder, say=lambda line: None, **settings)
    yield folder, model
    moe_mlx.runtime_of(model).close()


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize(("top_j", "distance"), [(1, 1), (0, 1), (2, 2)])
def test_it_is_the_rule_on_mlx_lm_s_own_model(deep: tuple[Path, Any], top_j: int, distance: int):
    folder, model = deep
    runtime = moe_mlx.runtime_of(model)
    runtime.route_by(Setting("50%", "ahead", distance, top_j).policy)
    with looking_ahead(runtime.layers, distance) as ahead:
        ours, totals = turns(model), runtime.stats.decode
    reference = load_model(folder)[0]
    oracle = AheadOracle(reference, runtime.slots_per_layer[0], top_j, distance)
    with oracle.at_work():
        theirs = turns(reference)
    assert all(bool(mx.allclose(a, b, rtol=1e-4, atol=1e-5)) for a, b in zip(ours, theirs, strict=True))
    assert (totals.misses, totals.swapped) == (oracle.misses, oracle.swapped)
    assert totals.swapped > 0
    sums = [sum(getattr(one, name) for one in ahead) for name in ("waited", "waits", "wasted")]
    assert sums == [oracle.waited, oracle.waits, oracle.wasted]
    assert 0 < oracle.waited < oracle.misses


def test_nobody_listens_afterwards(capped: Any):
    model, _ = capped(routing="exact")
    runtime = moe_mlx.runtime_of(model)
    runtime.route_by(Setting("50%", "ahead", 1).policy)
    with looking_ahead(runtime.layers, 1):
        assert [cache.on_input is not None for cache in runtime.layers][-2:] == [True, False]
    assert all(cache.on_input is None for cache in runtime.layers)


def test_its_row_counts_what_is_waited_for_and_what_was_read_in_vain(evaluate: Callable[..., Any]):
    exact, ahead = Setting("50%"), Setting("50%", "ahead", 1, 1)
    rows = evaluate([exact, ahead]).rows
    plain, row = rows[exact.key], rows[ahead.key]
    assert row.kl > 0 and row.swapped > 0
    assert 0 < row.blocking < plain.blocking
    assert 0 < row.waits <= plain.waits
    assert row.value == 1 and row.top_j == 1


def test_what_cannot_be_replayed_is_refused(tmp_path: Path, checkpoint: Any, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.txt").write_text("Once upon a time a router met sixteen experts.")
    base = ["eval", "--model", str(checkpoint()), "--data", str(tmp_path / "text.txt"), "--limit-tokens", "20"]
    trace = str(tmp_path / "t.npz")
    assert main([*base, "--routing", "ahead", "--trace", trace]) == 2
    assert "--trace keeps what can be replayed, and ahead cannot" in capsys.readouterr().err
    assert main([*base, "--routing", "exact", "--trace", trace]) == 0
    capsys.readouterr()
    assert main(["simulate", trace, "--routing", "ahead"]) == 2
    assert "choose one of exact, cache-prior" in capsys.readouterr().err
    assert main([*base, "--routing", "ahead", "--ahead", "0"]) == 2
    assert "routed 0 layers ahead" in capsys.readouterr().err
