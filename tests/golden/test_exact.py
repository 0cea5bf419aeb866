"""Exact routing is bit-equal to mlx-lm on the same weights: at every cap, for prompts around its change of path."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx_lm.generate import batch_generate
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

import moe_mlx
from tests.checkpoints import AFFINE4, tiny_checkpoint

LENGTHS = (1, 2, 15, 16, 17, 63, 64, 65, 600)
CAPS = ("18.75%", "25%", "50%", "75%", "100%")  # 18.75% of 16 experts are 3 slots: the family's top_k
NEUTRAL: dict[str, dict[str, Any]] = {
    "cache-prior": {"routing": "cache-prior", "route_lambda": 0.0},
    "max-rank": {"routing": "max-rank", "route_max_rank": 1},
}
#: Every cap exactly, and each neutral policy at one; the others at night.
ROWS = [pytest.param(cap, {}, id=f"exact-{cap}") for cap in CAPS] + [
    pytest.param(cap, how, id=f"{name}-{cap}", marks=() if cap == "50%" else pytest.mark.slow)
    for name, how in NEUTRAL.items()
    for cap in CAPS
]


@pytest.fixture(scope="module", params=["float32", "4-bit"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3_moe")
    return tiny_checkpoint("qwen3_moe", folder, quantization=AFFINE4 if request.param == "4-bit" else None)


@pytest.fixture(scope="module")
def reference(checkpoint: Path):
    return mlx_lm.load(str(checkpoint))[0]


@pytest.fixture(scope="module")
def theirs(reference: Any) -> dict[int, list[mx.array]]:
    """Length of a prompt -> what mlx-lm answers to it, and to some tokens more."""
    return {length: continued(reference, length) for length in LENGTHS}


def prompt(length: int) -> mx.array:
    return mx.array(np.random.default_rng(length).integers(0, 60, length))[None]


def continued(model: Any, length: int) -> list[mx.array]:
    cache, outputs = make_prompt_cache(model), []
    for tokens in (prompt(length), *(mx.array([[token]]) for token in range(6))):
        outputs.append(model(tokens, cache=cache))
        mx.eval(outputs[-1])
    return outputs


def capped(checkpoint: Path, cap: str, **options):
    return moe_mlx.load(checkpoint, expert_cache=cap, say=lambda line: None, **{"routing": "exact", **options})


@pytest.mark.rows_by_day(6)
@pytest.mark.parametrize(("cap", "routing"), ROWS)
def test_prefill_and_decode_are_bit_equal(
    checkpoint: Path, theirs: dict[int, list[mx.array]], cap: str, routing: dict[str, Any]
):
    model, _ = capped(checkpoint, cap, **routing)
    for length, outputs in theirs.items():
        for token, (one, other) in enumerate(zip(outputs, continued(model, length), strict=True)):
            assert mx.array_equal(one, other), f"{length} + {token}"
    for cache in moe_mlx.runtime_of(model).layers:
        cache.table.check()


def test_the_floor_is_the_family_s_top_k(checkpoint: Path):
    model, _ = capped(checkpoint, CAPS[0])
    runtime = moe_mlx.runtime_of(model)
    assert runtime.slots_per_layer == [layer.top_k for layer in runtime.source.layers]


@pytest.mark.parametrize("decode", ["readback", "auto"])
def test_generate_says_what_mlx_lm_says(checkpoint: Path, reference, decode: str):
    model, tokenizer = capped(checkpoint, "25%", decode=decode)
    theirs = mlx_lm.generate(reference, tokenizer, "what is a fox", max_tokens=40)
    assert mlx_lm.generate(model, tokenizer, "what is a fox", max_tokens=40) == theirs


def test_batches_route_exactly(checkpoint: Path, reference):
    model, tokenizer = capped(checkpoint, "25%", routing="cache-prior", route_lambda=1.0)
    prompts = [[1, 2, 3, 4], [5, 6, 7], [8, 9]]
    theirs = batch_generate(reference, tokenizer, prompts, max_tokens=8)
    assert batch_generate(model, tokenizer, prompts, max_tokens=8).texts == theirs.texts


def test_a_kept_and_trimmed_prompt_cache_changes_nothing(checkpoint: Path, reference):
    model, _ = capped(checkpoint, "25%")
    theirs, ours = make_prompt_cache(reference), make_prompt_cache(model)
    for tokens, trim in ((prompt(70), 9), (prompt(20), 0), (prompt(3), 0)):
        assert mx.array_equal(reference(tokens, cache=theirs), model(tokens, cache=ours))
        trim_prompt_cache(theirs, trim)
        trim_prompt_cache(ours, trim)


def test_two_unevaluated_calls_do_not_disturb_each_other(checkpoint: Path, reference):
    model, _ = capped(checkpoint, CAPS[0])
    steps = [mx.array([[token]]) for token in range(8)]
    ours, theirs = [model(step) for step in steps], [reference(step) for step in steps]
    mx.eval(ours)
    for left, right in zip(ours, theirs, strict=True):
        assert mx.array_equal(left, right)


def test_banks_are_no_parameters(checkpoint: Path, reference):
    from mlx.utils import tree_flatten

    model, _ = capped(checkpoint, "50%")
    names = [name for name, _ in tree_flatten(model.parameters())]
    assert not [name for name in names if "switch" in name]
    assert set(names) == {name for name, _ in tree_flatten(reference.parameters()) if "switch" not in name}


def test_a_resize_keeps_the_hottest_and_stays_exact(checkpoint: Path, reference):
    model, _ = capped(checkpoint, "25%")
    runtime = moe_mlx.runtime_of(model)
    for token in range(10):
        mx.eval(model(mx.array([[token]])))
    for cap in ("75%", "18.75%", "100%", "50%"):
        hottest = [cache.table.hottest() for cache in runtime.layers]
        before = runtime.slots_per_layer
        runtime.resize(cap)
        for cache, order, slots in zip(runtime.layers, hottest, before, strict=True):
            kept = set(order[: cache.table.slots])
            assert kept and set(cache.table.resident) == (set(range(cache.table.experts)) if cache.full else kept)
            assert cache.table.slots != slots and (cache.table.slots > slots or len(kept) == cache.table.slots)
        assert mx.array_equal(reference(prompt(30)), model(prompt(30)))
        assert mx.array_equal(reference(mx.array([[3]])), model(mx.array([[3]])))


def test_resize_up_keeps_what_was_resident(checkpoint: Path):
    model, _ = capped(checkpoint, "25%")
    runtime = moe_mlx.runtime_of(model)
    for token in range(10):
        mx.eval(model(mx.array([[token]])))
    before = [set(cache.table.resident) for cache in runtime.layers]
    runtime.resize("50%")
    assert [set(cache.table.resident) for cache in runtime.layers] == before
