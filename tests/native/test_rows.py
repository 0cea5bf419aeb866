"""A batch's decode steps in the graph: mlx-lm's own batching over the whole model, and read back, bit for bit."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.errors import ExpertReadError
from moe_mlx.expert_cache.switch import MOST_ROWS
from tests.native.conftest import loaded, state
from tests.native.runs import same

#: Blocks that hand a batch to their experts as `[B, 1, D]` or flattened, hybrids and sliding windows among them.
FAMILIES = ("qwen3_moe", "mixtral", "deepseek_v3", "gpt_oss", "olmoe", "longcat_flash", "qwen3_next", "glm4_moe")


def prompts(rows: int) -> list[list[int]]:
    """Prompts of different lengths."""
    random = np.random.default_rng(rows)
    return [random.integers(5, 90, int(length)).tolist() for length in random.integers(2, 20, rows)]


def answered(model: Any, rows: int, tokens: int = 10) -> list[tuple[int, int, bytes]]:
    """What mlx-lm's continuous batching makes of some prompts: row, token and logprobs, all in the order they came."""
    batch = BatchGenerator(model, completion_batch_size=rows, prefill_batch_size=1)
    lengths = [tokens + row for row in range(rows)]  # rows end one after the other
    batch.insert(prompts(rows), lengths)
    left, found = rows, []
    while left:
        for response in batch.next_generated():
            found.append((response.uid, response.token, np.array(response.logprobs.astype(mx.float32)).tobytes()))
            left -= response.finish_reason is not None
    batch.close()
    return found


def prefill(runtime: Any) -> tuple[Any, ...]:
    """What both ways have to count alike; a batch's steps count as prefill."""
    totals = runtime.stats.prefill
    return tuple(getattr(totals, name) for name in ("steps", "tokens", "hits", "misses", "bytes_read", "choices"))


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_mlx_lm_s_own_batches(native: Any, tiny: Callable[..., Path], family: str):
    folder = tiny(family, quantized=family != "gpt_oss", store=False)
    whole = mlx_lm.load(str(folder))[0]
    for rows, cap in ((2, "50%"), (4, "75%"), (MOST_ROWS, "90%")):
        theirs, runs = answered(whole, rows), []
        for way in ("native", "readback"):
            model, _, runtime = loaded(folder, way, cap, routing="exact")
            runs.append((answered(model, rows), state(runtime), prefill(runtime), runtime.stats.prefill.read_backs))
            assert runs[-1][0] == theirs, (way, rows)
        assert runs[0][1:3] == runs[1][1:3], rows
        fits = rows * runtime.source.layers[0].top_k <= runtime.slots_per_layer[0]
        assert (runs[0][3] < runs[1][3]) == fits or rows > 2, rows


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("evict", ["lru", "lfu", "router"])
@pytest.mark.parametrize("routing", ["exact", "cache-prior"])
def test_every_eviction_and_what_a_policy_knows_afterwards(
    native: Any, tiny: Callable[..., Path], evict: str, routing: str
):
    runs = []
    for way in ("native", "readback"):
        model, _, runtime = loaded(tiny(), way, "75%", evict=evict, routing=routing)
        found = [answered(model, 3), answered(model, 1), answered(model, 4), answered(model, 1)]
        runs.append((found, state(runtime), prefill(runtime)))
    assert runs[0] == runs[1]


def call(model: Any, kind: int, rows: int, token: int) -> mx.array:
    """A prompt's chunk (kind 0), a step of one row or of several."""
    shape = (1, rows + 1) if kind == 0 else (rows, 1)
    tokens = (token + 7 * np.arange(rows + 1 if kind == 0 else rows)) % 90 + 5
    return model(mx.array(tokens.reshape(shape)), cache=make_prompt_cache(model))


CALLS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, MOST_ROWS + 2), st.integers(0, 90)), min_size=1, max_size=8
)


@given(CALLS)
@settings(max_examples=25, deadline=None)
def test_any_calls_in_any_order(native: Any, tiny: Callable[..., Path], calls: Sequence[tuple[int, int, int]]):
    outputs, tables, counted = [], [], []
    for model, _, runtime in (_kept(tiny, "native"), _kept(tiny, "readback")):
        runtime.reset()
        logits = [call(model, *one) for one in calls]
        mx.eval(logits)
        outputs.append(logits)
        tables.append(state(runtime))
        counted.append(prefill(runtime))
    assert same(*outputs)
    assert tables[0] == tables[1] and counted[0] == counted[1]


_KEPT: dict[str, Any] = {}


def _kept(tiny: Callable[..., Path], way: str) -> tuple[Any, Any, Any]:
    """Loading anew for each example would take most of the time."""
    import moe_mlx

    if way not in _KEPT:
        model, tokenizer = moe_mlx.load(
            tiny(), expert_cache="62.5%", decode=way, routing="exact", say=lambda line: None
        )
        _KEPT[way] = (model, tokenizer, moe_mlx.runtime_of(model))
    return _KEPT[way]


def test_one_array_each_way_per_capped_layer(native: Any, tiny: Callable[..., Path]):
    model, _, runtime = loaded(tiny(), "native", "75%", routing="exact")
    runtime.layers.native.streams.apart = True
    cache = make_prompt_cache(model)
    for rows in (2, 4, 2):
        logits = call(model, 1, rows, 3)
        assert runtime.layers.native.crossings([logits]) == (len(runtime.layers), len(runtime.layers))
        mx.eval(logits)
    assert cache


def test_what_may_not_fit_is_read_back_and_counted(native: Any, tiny: Callable[..., Path]):
    model, _, runtime = loaded(tiny(), "native", "25%", routing="exact")
    layers, slots, top_k = len(runtime.layers), runtime.slots_per_layer[0], runtime.source.layers[0].top_k
    most = slots // top_k
    for rows, read_backs in ((most + 1, layers), (MOST_ROWS + 1, 2 * layers)):
        mx.eval(call(model, 1, rows, 3))
        assert runtime.stats.prefill.read_backs == read_backs
    assert runtime.stats.prefill.waits == 0


def test_the_union_is_read_once(native: Any, tiny: Callable[..., Path]):
    model, _, runtime = loaded(tiny(), "native", "75%", routing="exact")
    alike = mx.array([[9]] * 4)  # four rows that choose the same experts
    mx.eval(model(alike, cache=make_prompt_cache(model)))
    totals, layers = runtime.stats.prefill, runtime.source.layers
    assert totals.misses == sum(layer.top_k for layer in layers)
    assert totals.choices == 4 * totals.misses
    assert totals.bytes_read == sum(layer.top_k * layer.expert_nbytes for layer in layers)
    assert totals.waits == len(layers) and totals.read_backs == 0


def test_a_damaged_expert_ends_the_step_and_the_next_one_is_right(
    native: Any, tiny: Callable[..., Path], tmp_path: Path
):
    store = Path(shutil.copytree(tiny(), tmp_path / "store"))
    model, _, runtime = loaded(store, "native", "75%", routing="exact")
    expected = answered(model, 3)
    runtime.reset()
    broken = {path: path.read_bytes() for path in (store / "experts/layer-001").iterdir()}
    for path, data in broken.items():
        path.write_bytes(data[:-1])
    for _ in range(3):
        with pytest.raises(ExpertReadError, match="layer 1"):
            mx.eval(call(model, 1, 3, 11))
        runtime.reset()
    for path, data in broken.items():
        path.write_bytes(data)
    runtime.reset()
    assert answered(model, 3) == expected
