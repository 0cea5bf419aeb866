"""Half of the experts for easy tokens, restated on mlx-lm's own Qwen3-MoE model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx.errors import UsageError
from moe_mlx.evaluation.easy import EasyTokens
from moe_mlx.evaluation.scoring import next_tokens
from moe_mlx.evaluation.setting import Setting

DOCUMENT = [3, 40, 41, 60, 61, 62, 33, 34, 70, 71, 72, 73, 50, 51, 40, 41]


def restated(model: Any, sure: float) -> tuple[list[mx.array], int]:
    """Log-probabilities of every token, and how many were computed again: `top_k` of the blocks is set by hand."""
    blocks = [layer.mlp for layer in model.layers if hasattr(layer.mlp, "top_k")]
    whole, cache, rows, redone = blocks[0].top_k, make_prompt_cache(model), [], 0

    def call(token: int, top_k: int) -> mx.array:
        for block in blocks:
            block.top_k = top_k
        z = model(mx.array([[token]]), cache=cache)[0, -1]
        return z - mx.logsumexp(z)

    for token, _ in itertools.pairwise(DOCUMENT):
        row = call(token, whole // 2)
        if row.max().item() < math.log(sure):
            trim_prompt_cache(cache, 1)
            row, redone = call(token, whole), redone + 1
        rows.append(row)
    return rows, redone


def test_it_is_the_rule_on_mlx_lm_s_own_model(capped: Any, checkpoint: Any):
    surest = sorted(math.exp(row.max().item()) for row in restated(load_model(checkpoint())[0], 1e-9)[0])
    sure = surest[len(surest) // 2]
    theirs, redone = restated(load_model(checkpoint())[0], sure)
    assert 0 < redone < len(theirs)
    model, _ = capped(routing="exact")
    tokens = EasyTokens(sure)
    moe_mlx.runtime_of(model).route_by(tokens.policy)
    ours = [row for row, _ in next_tokens(model, [DOCUMENT], tokens.call)]
    assert tokens.redone == redone
    assert all(bool(mx.allclose(a, b, rtol=1e-4, atol=1e-5)) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_between_half_the_experts_and_all_of_them(evaluate: Callable[..., Any]):
    settings = [
        Setting("50%"),
        Setting("50%", "pruned", 1),
        *(Setting("50%", "easy", sure) for sure in (0.0, 0.5, 1.0)),
    ]
    rows = evaluate(settings).rows
    exact, pruned, half, _, every = (rows[setting.key] for setting in settings)
    assert (half.kl, half.bytes_per_token, half.redone) == (pruned.kl, pruned.bytes_per_token, 0)
    assert every.redone == 1 and every.kl < 1e-6 < half.kl
    assert every.bytes_per_token >= exact.bytes_per_token > half.bytes_per_token


def test_a_cache_that_gives_nothing_back_is_refused():
    class Fixed:
        def is_trimmable(self) -> bool:
            return False

    row = mx.array(np.zeros((1, 1, 8), dtype=np.float32))
    with pytest.raises(UsageError, match="--routing easy takes tokens back"):
        EasyTokens(0.9).call(lambda token, cache: row, 3, [Fixed()])


@pytest.mark.parametrize("sure", [None, -0.1, 1.1])
def test_what_is_no_probability_is_refused(sure: float | None):
    with pytest.raises(UsageError, match="give a probability"):
        Setting("50%", "easy", sure)
