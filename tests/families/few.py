"""Which families stand for the others by day in tests that repeat one property over all of them."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

#: Softmax and sigmoid routers, shared experts, latent attention, hybrids, biases, one expert a token, no experts.
FEW = frozenset(
    {
        "deepseek_v3",
        "ernie4_5_moe",
        "glm4_moe",
        "gpt_oss",
        "granitemoehybrid",
        "lfm2_moe",
        "llama4",
        "longcat_flash",
        "mixtral",
        "phixtral",
        "qwen2_moe",
        "qwen3_moe",
        "qwen3_next",
    }
)


def by_day(names: Iterable[Any], few: Collection[Any] = FEW) -> list[Any]:
    """A row for each name; those that are not among the few are slow."""
    return [pytest.param(name, marks=() if name in few else pytest.mark.slow) for name in names]
