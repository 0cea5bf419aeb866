"""What was tried and is not offered, as `eval` measures it: experts that nobody waits for, codes at fewer levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.errors import UsageError
from moe_mlx.evaluation.rounded import Rounded, rounded
from moe_mlx.evaluation.setting import LEVELS, Grid, Setting
from moe_mlx.expert_cache.residency import ResidencyTable
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.expert_cache.restated import turns


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("quantized"), quantization=AFFINE4)


def test_nobody_waits_and_what_was_left_out_is_there_for_the_next_token(evaluate: Any):
    setting = Setting("50%", "unwaited")
    exact, row = (evaluate([one]).rows[one.key] for one in (Setting("50%"), setting))
    assert 0 < row.blocking < exact.blocking / 4, "only where none of a token's experts is there"
    assert row.kl > 0 and row.late > 0
    assert row.miss_rate > row.blocking / 100
    assert row.bytes_per_token > exact.bytes_per_token / 4, "what is left out is read all the same"


def test_the_reads_behind_are_those_of_the_experts_left_out(capped: Any, monkeypatch: pytest.MonkeyPatch):
    from moe_mlx.evaluation.unwaited import ReadBehind, Unwaited

    model, _ = capped()
    runtime = moe_mlx.runtime_of(model)
    runtime.route_by(lambda top_k, experts: Unwaited())
    behind, chosen = ReadBehind(runtime.layers), []
    begin = ResidencyTable.begin

    def noted(table: ResidencyTable, experts: Any, *args: Any, **kwargs: Any) -> Any:
        chosen.append(set(experts))
        return begin(table, experts, *args, **kwargs)

    monkeypatch.setattr(ResidencyTable, "begin", noted)
    for token in range(5, 25):
        chosen.clear()
        mx.eval(model(mx.array([[token]])))
        left = [set(cache.policy.left_out) for cache in runtime.layers]
        assert all(
            len(now | out) == cache.spec.top_k for now, out, cache in zip(chosen, left, runtime.layers, strict=True)
        )
        behind.after_token()
        for cache, out in zip(runtime.layers, left, strict=True):
            assert all(cache.table.slot_of[expert] >= 0 for expert in out)
            cache.table.check()
    assert behind.totals.misses == behind.totals.late > 0
    assert behind.totals.bytes_read == behind.totals.misses * runtime.layers[0].spec.expert_nbytes


@pytest.mark.parametrize("levels", LEVELS)
def test_rounded_experts_are_mlx_lm_s_at_fewer_levels_and_whole_again_afterwards(quantized: Path, levels: int):
    model, _ = moe_mlx.load(quantized, expert_cache="100%", routing="exact", say=lambda line: None)
    runtime, reference = moe_mlx.runtime_of(model), load_model(quantized)[0]
    exact = turns(reference)
    for switch in (layer.mlp.switch_mlp for layer in reference.model.layers if "switch_mlp" in layer.mlp):
        for name in ("gate_proj", "up_proj", "down_proj"):
            module = getattr(switch, name)
            group = module.group_size
            weights = mx.dequantize(module.weight, module.scales, module.biases, group_size=group, bits=4)
            codes, scales, biases = rounded(weights, group, levels)
            fewer = (scales[..., None] * codes + biases[..., None]).reshape(weights.shape)
            assert len(np.unique(np.array(codes))) == levels
            if levels > 3:
                bits = {4: 2, 8: 3}[levels]
                theirs = mx.dequantize(*mx.quantize(weights, group_size=group, bits=bits), group_size=group, bits=bits)
                assert mx.allclose(fewer, theirs, atol=1e-6)
            module.weight, module.scales, module.biases = mx.quantize(fewer, group_size=group, bits=8)
            module.bits = 8  # as good as exact for so few levels
    with Rounded(runtime, levels):
        ours = turns(model)
    assert all(bool(mx.allclose(a, b, rtol=0.02, atol=0.02)) for a, b in zip(ours, turns(reference), strict=True))
    assert not any(bool(mx.allclose(a, b, rtol=0.02, atol=0.02)) for a, b in zip(ours, exact, strict=True))
    assert all(bool(mx.array_equal(a, b)) for a, b in zip(turns(model), exact, strict=True))
    runtime.close()


def test_fewer_levels_cost_more(quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import json

    (tmp_path / "text.txt").write_text("Once upon a time a router met sixteen experts.")
    asked = "--limit-tokens 25 --tasks none --expert-cache 50% --routing exact,rounded --json"
    assert main(["eval", "--model", str(quantized), "--data", str(tmp_path / "text.txt"), *asked.split()]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    found = {row["value"]: row["kl"] for row in rows if row["routing"] == "rounded"}
    assert found[3] > found[4] > found[8] > 0
    assert rows[0]["kl"] == 0


def test_they_are_named_to_be_measured():
    assert all(setting.routing in ("exact", "cache-prior") for setting in Grid().settings(top_k=3))
    grid = Grid(["25%", "50%"], ["unwaited", "rounded"], lights=["exact", "late"], levels=[3])
    assert [setting.key for setting in grid.settings(top_k=3)] == [
        "25% lru unwaited",
        "50% lru unwaited",
        "100% lru rounded 3",
    ]
    with pytest.raises(UsageError, match="rounded to 5 levels"):
        Setting("100%", "rounded", 5)


def test_what_is_not_of_four_bits_is_not_rounded(capped: Any):
    model, _ = capped(expert_cache="100%")
    with pytest.raises(UsageError, match="not of 4 affine bits"):
        Rounded(moe_mlx.runtime_of(model), 3)
