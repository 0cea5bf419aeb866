"""Runs of a model that both ways of decoding must do alike."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.expert_cache.eviction import EVICTIONS

POLICIES: dict[str, dict[str, Any]] = {
    "exact": {"routing": "exact"},
    "cache-prior": {"routing": "cache-prior", "route_lambda": 0.3},
    "strong": {"routing": "cache-prior", "route_lambda": 1.0, "route_top_j": 0},
    "max-rank": {"routing": "max-rank", "route_max_rank": 8},
    "cumulative": {"routing": "cumulative", "route_mass": 0.8},
}

#: Policy and eviction; by day a few rows in which every rule and every eviction comes once, the others slow.
BY_DAY = (("exact", "lru"), ("cache-prior", "router"), ("max-rank", "lfu"), ("cumulative", "lru"))
PAIRS = [
    pytest.param(policy, evict, marks=[] if (policy, evict) in BY_DAY else pytest.mark.slow)
    for policy in POLICIES
    for evict in EVICTIONS
]

CAPS = ("18.75%", "25%", "50%", "75%")

#: Families whose blocks differ most: where the router is, what it returns, what is no expert. The others are slow here;
#: `golden/test_families.py` decodes every family in the graph.
FAMILIES = (
    "qwen3_moe",
    "gpt_oss",
    "llama4",
    "longcat_flash",
    *(
        pytest.param(family, marks=pytest.mark.slow)
        for family in (
            "mixtral",
            "deepseek_v3",
            "olmoe",
            "phimoe",
            "ernie4_5_moe",
            "qwen3_next",
            "glm4_moe",
            "granitemoe",
        )
    ),
)


def talk(model: Any, turns: int = 3) -> list[mx.array]:
    """Prompts and decode steps in turn, steps built ahead of their evaluation as mlx-lm does."""
    cache, random, outputs = make_prompt_cache(model), np.random.default_rng(5), []
    for _ in range(turns):
        outputs.append(model(mx.array(random.integers(5, 90, (1, 19))), cache=cache))
        for token in random.integers(5, 90, 12).tolist():
            outputs.append(model(mx.array([[token]]), cache=cache))
            mx.async_eval(outputs[-1])
    mx.eval(outputs)
    return outputs


def same(left: list[mx.array], right: list[mx.array]) -> bool:
    return all(bool(mx.array_equal(a, b)) for a, b in zip(left, right, strict=True))


def steps(model: Any, take: Callable[[mx.array], Any] = mx.eval, tokens: int = 30) -> list[mx.array]:
    cache, outputs = make_prompt_cache(model), []
    for token in range(tokens):
        outputs.append(model(mx.array([[5 + token]]), cache=cache))
        take(outputs[-1])
    return outputs
