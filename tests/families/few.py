"""Which families stand for the others by day in tests that repeat one property over all of them."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from tests.checkpoints import AFFINE4
from tests.families.configs import UNQUANTISED

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
#: The same without the one that takes as long as four others, where its linear attention makes no difference.
CHEAP = FEW - {"qwen3_next"}


def by_day(names: Iterable[Any], few: Collection[Any] = FEW) -> list[Any]:
    """A row for each name; those that are not among the few are slow."""
    return [pytest.param(name, marks=() if name in few else pytest.mark.slow) for name in names]


def in_both_forms(names: Iterable[str], float32: Collection[str], quantised: Collection[str]) -> list[Any]:
    """A row for each name, in float32 and in 4 bits; a variant of a family's router is not quantised.

    Args:
        names: Rows of the configurations.
        float32: Those that run by day in float32.
        quantised: Those that run by day in 4 bits.
    """
    return [
        pytest.param(name, how, id=f"{name}-{form}", marks=() if name in few else pytest.mark.slow)
        for form, how, few in (("float32", None, float32), ("4-bit", AFFINE4, quantised))
        for name in names
        if not (how and ("+" in name or name in UNQUANTISED))
    ]
