"""What crosses between the model's stream and the fetches' in a decode step: one array each way per capped layer.

Streams of their own stand for a GPU's beside the CPU's: the graph is the same, and so are its edges.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.native.bridge import STREAM_VARIABLE
from tests.native.conftest import counts, loaded, state

POLICIES = ("exact", "cache-prior", "max-rank", "cumulative")
TOKENS = (5, 9, 1, 30, 2, 7, 7, 12)


def decoded(model: Any) -> list[mx.array]:
    """The logits of a few steps, two of them queued at a time as in mlx-lm's own loop."""
    cache, rows = make_prompt_cache(model), []
    for token in TOKENS:
        rows.append(model(mx.array([[token]]), cache=cache))
        mx.async_eval(rows[-1])
    mx.eval(rows)
    return rows


@pytest.mark.parametrize("prefetch", ["off", "on"])
@pytest.mark.parametrize("routing", POLICIES)
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_one_array_each_way_per_capped_layer(
    native: Any, tiny: Callable[..., Path], family: str, routing: str, prefetch: str
):
    model, _, runtime = loaded(tiny(family), "native", "50%", routing=routing, prefetch=prefetch)
    runtime.native.runtime.apart = True
    cache = make_prompt_cache(model)
    for token in TOKENS[:3]:
        logits = model(mx.array([[token]]), cache=cache)
        assert runtime.native.crossings([logits]) == (len(runtime.layers), len(runtime.layers))
        mx.eval(logits)


def test_whole_layers_cross_nothing(native: Any, tiny: Callable[..., Path]):
    model, _, runtime = loaded(tiny(), "native", "100%")
    runtime.native.runtime.apart = True
    logits = model(mx.array([[1]]), cache=make_prompt_cache(model))
    assert runtime.native.crossings([logits]) == (0, 0)
    mx.eval(logits)


@pytest.mark.parametrize("prefetch", ["off", "on"])
@pytest.mark.parametrize("routing", POLICIES)
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_packed_rows_are_the_same_bits(
    native: Any, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, family: str, routing: str, prefetch: str
):
    found = []
    for where in ("model", "apart"):
        monkeypatch.setenv(STREAM_VARIABLE, where)
        model, _, runtime = loaded(tiny(family), "native", "25%", routing=routing, prefetch=prefetch)
        assert runtime.native.runtime.apart is (where == "apart")
        logits = [np.array(row) for row in decoded(model)]
        found.append((logits, state(runtime), counts(runtime)))
    assert all(np.array_equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
    assert found[0][1:] == found[1][1:]
