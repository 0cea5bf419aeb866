"""What crosses between the model's stream and the fetches' in a decode step: one array each way per capped layer.

Streams of their own stand for a GPU's beside the CPU's: the graph is the same, and so are its edges.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.benchmark.crossings import crossings_per_token
from moe_mlx.errors import ExpertReadError
from moe_mlx.native.bridge import STREAM_VARIABLE
from moe_mlx.planning.crossings import PER_LAYER
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


@pytest.mark.rows_by_day(6)
@pytest.mark.parametrize("prefetch", ["off", "on"])
@pytest.mark.parametrize("routing", POLICIES)
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_one_array_each_way_per_capped_layer(
    native: Any, tiny: Callable[..., Path], family: str, routing: str, prefetch: str
):
    model, _, runtime = loaded(tiny(family), "native", "50%", routing=routing, prefetch=prefetch)
    runtime.layers.native.streams.apart = True
    cache = make_prompt_cache(model)
    for token in TOKENS[:3]:
        logits = model(mx.array([[token]]), cache=cache)
        assert runtime.layers.native.crossings([logits]) == (len(runtime.layers), len(runtime.layers))
        mx.eval(logits)


@pytest.mark.parametrize("distance", [1, 2])
@pytest.mark.parametrize("prefetch", ["off", "on"])
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_late_experts_cross_by_the_same_two_arrays(
    native: Any, tiny: Callable[..., Path], family: str, prefetch: str, distance: int
):
    """Who is there, the places of the late ones and the slots of an earlier layer's ride in the fetch's one result."""
    light = {"light": "late", "light_beyond": 0.0, "light_distance": distance}
    model, _, runtime = loaded(tiny(family), "native", "50%", routing="exact", prefetch=prefetch, **light)
    runtime.layers.native.streams.apart = True
    cache = make_prompt_cache(model)
    for token in TOKENS:
        logits = model(mx.array([[token]]), cache=cache)
        assert runtime.layers.native.crossings([logits]) == (len(runtime.layers), len(runtime.layers))
        mx.eval(logits)
    runtime.drain()
    runtime.layers.ledger.collect(closing=True)
    assert len(runtime.layers) <= distance or runtime.stats.decode.late > 0, "nobody was late: the count says nothing"


def test_bench_counts_them_and_leaves_the_stream_as_it_was(native: Any, tiny: Callable[..., Path]):
    _, _, runtime = loaded(tiny(), "native", "50%")
    apart = runtime.layers.native.streams.apart
    assert crossings_per_token(runtime) == PER_LAYER * len(runtime.layers)
    assert runtime.layers.native.streams.apart is apart
    runtime.use_decode("readback")
    assert crossings_per_token(runtime) == 0


def test_an_error_on_a_stream_of_its_own_ends_its_turn_and_no_other(
    native: Any, tiny: Callable[..., Path], tmp_path: Path
):
    store = Path(shutil.copytree(tiny(), tmp_path / "store"))
    model, _, runtime = loaded(store, "native", "25%", routing="exact")
    runtime.layers.native.streams.apart = True
    good = [np.array(row) for row in decoded(model)]
    runtime.reset()
    broken = {path: path.read_bytes() for path in (store / "experts/layer-001").iterdir()}
    for path, data in broken.items():
        path.write_bytes(data[:-1])
    for _ in range(3):  # what the first left in a stream's queue would end the next
        with pytest.raises(ExpertReadError, match="layer 1"):
            decoded(model)
        runtime.reset()
    for path, data in broken.items():
        path.write_bytes(data)
    runtime.reset()
    assert all(np.array_equal(a, np.array(b)) for a, b in zip(good, decoded(model), strict=True))


def test_whole_layers_cross_nothing(native: Any, tiny: Callable[..., Path]):
    model, _, runtime = loaded(tiny(), "native", "100%")
    runtime.layers.native.streams.apart = True
    logits = model(mx.array([[1]]), cache=make_prompt_cache(model))
    assert runtime.layers.native.crossings([logits]) == (0, 0)
    mx.eval(logits)


@pytest.mark.rows_by_day(5)
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
        assert runtime.layers.native.streams.apart is (where == "apart")
        logits = [np.array(row) for row in decoded(model)]
        found.append((logits, state(runtime), counts(runtime)))
    assert all(np.array_equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
    assert found[0][1:] == found[1][1:]
