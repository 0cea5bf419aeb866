"""Pinned experts in the graph and read back: bit for bit alike, never gone; and mlx-lm's answers, routed exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.errors import DoesNotFitError
from moe_mlx.loading.pressure import PressureWatch
from tests.native.conftest import counts, loaded, state
from tests.native.runs import same, talk


def pin_of(runtime: Any, each: int) -> str:
    """The last experts of every MoE layer, by the model's own numbers."""
    return ",".join(f"{layer.layer}:{layer.experts - 1 - n}" for layer in runtime.source.layers for n in range(each))


def gone(runtime: Any) -> list[tuple[int, int]]:
    """Pinned experts that have no slot."""
    runtime.drain()
    return [
        (cache.spec.index, expert)
        for cache in runtime.layers
        for expert in range(cache.table.experts)
        if cache.table.pinned[expert] and not cache.table.whole(expert)
    ]


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("evict", ["lru", "lfu", "router"])
@pytest.mark.parametrize("policy", ["exact", "cache-prior"])
def test_both_ways_are_alike_and_no_pinned_expert_goes(native: Any, tiny: Callable[..., Path], policy: str, evict: str):
    _, _, plain = loaded(tiny(), "readback", "50%")
    pin, runs = pin_of(plain, 3), []
    for way in ("native", "readback"):
        model, _, runtime = loaded(tiny(), way, "50%", routing=policy, evict=evict, pin=pin)
        assert runtime.pinned == 3 * len(runtime.layers)
        assert not gone(runtime)
        outputs = []
        for _ in range(2):
            outputs += talk(model, 2)  # prompts of 19 tokens need more experts than the slots that are left
            assert not gone(runtime)
        runs.append((outputs, state(runtime), counts(runtime)))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]
    assert runs[0][2][3] > 0
    _, _, unpinned = loaded(tiny(), "readback", "50%", routing=policy, evict=evict)
    talk(unpinned.model, 4)
    assert counts(unpinned)[3] != counts(runtime)[3], "pins changed nothing: the comparison says nothing"


def test_exact_answers_are_mlx_lm_s(native: Any, tiny: Callable[..., Path]):
    theirs = talk(mlx_lm.load(str(tiny(store=False)))[0])
    for way in ("native", "readback"):
        _, _, plain = loaded(tiny(), "readback", "50%")
        model, _, _ = loaded(tiny(), way, "50%", routing="exact", pin=pin_of(plain, 4))
        assert same(talk(model), theirs)


def test_rows_of_a_batch_leave_pinned_slots_alone(native: Any, tiny: Callable[..., Path]):
    _, _, plain = loaded(tiny(), "readback", "50%")
    pin, random, runs = pin_of(plain, 4), np.random.default_rng(2), []
    tokens = random.integers(5, 90, (12, 4, 1))
    for way in ("native", "readback"):
        model, _, runtime = loaded(tiny(), way, "50%", routing="exact", pin=pin)
        cache = make_prompt_cache(model)
        outputs = [model(mx.array(row), cache=cache) for row in tokens]
        mx.eval(outputs)
        assert not gone(runtime)
        runs.append(outputs)
    assert same(*runs)


def test_they_stay_through_a_smaller_cap_and_pressure_and_come_back(native: Any, tiny: Callable[..., Path]):
    _, _, plain = loaded(tiny(), "readback", "50%")
    model, _, runtime = loaded(tiny(), "native", "75%", routing="exact", pin=pin_of(plain, 3))
    talk(model, 1)
    runtime.resize("50%")
    assert not gone(runtime)
    talk(model, 1)
    spec = runtime.source.layers[0]
    with pytest.raises(DoesNotFitError, match="3 pinned experts and"):
        runtime.resize(f"{100 * (spec.top_k + 2) / spec.experts}%")
    assert not gone(runtime)
    now = [0.0]
    watch = PressureWatch(runtime, lambda line: None, lambda: True, lambda: now[0], lambda: False, lambda: 5.0)
    with pytest.raises(DoesNotFitError, match="memory pressure goes on"):
        for _ in range(40):
            now[0] += 2.0
            watch.between_tokens()
    assert min(runtime.slots_per_layer) >= spec.top_k + 3
    assert not gone(runtime)
    runtime.resize("100%")
    runtime.resize("50%")
    assert not gone(runtime)
    runtime.reset()
    assert runtime.pinned == 3 * len(runtime.layers)
    talk(model, 3)
    kept = [expert for cache in runtime.layers for expert in range(cache.table.experts) if cache.table.pinned[expert]]
    assert len(gone(runtime)) < len(kept)
