"""Settings that mlx-lm would fail on in the midst of an answer are refused before a model is loaded."""

import math

import pytest

import moe_mlx
from moe_mlx.conversation.sampling import KV_BITS, KV_GROUPS, KVCacheSettings, Sampling
from moe_mlx.errors import UsageError


@pytest.mark.parametrize(
    "given",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"temp": math.nan},
        {"temp": math.inf},
        {"temp": -1.0},
        {"top_k": -1},
        {"min_tokens_to_keep": 0},
        {"xtc_threshold": 0.6},
        {"repetition_penalty": -0.5},
        {"max_tokens": 0},
    ],
)
def test_no_such_sampling(given):
    with pytest.raises(UsageError, match=next(iter(given))):
        Sampling(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"max_kv_size": 0},
        {"prefill_step_size": 0},
        {"kv_bits": 7},
        {"kv_group_size": 48},
        {"quantized_kv_start": -1},
        {"kv_bits": 4, "max_kv_size": 64},
    ],
)
def test_no_such_cache(given):
    with pytest.raises(UsageError, match=next(iter(given))):
        KVCacheSettings(**given)


def test_the_groups_are_those_of_mlx():
    mx = pytest.importorskip("mlx.core")
    for bits in range(2, 10):
        for group in (16, 32, 64, 128, 256):
            try:
                mx.eval(mx.quantize(mx.zeros((1, 256)), group, bits))
                taken = True
            except ValueError:
                taken = False
            assert taken == (bits in KV_BITS and group in KV_GROUPS), (bits, group)


@pytest.mark.parametrize("given", [{"readers": 0}, {"readers": "4"}, {"readers": True}, {"max_kv_size": 0}])
def test_no_such_number_of_readers_or_of_tokens_in_a_load(given):
    with pytest.raises(UsageError, match=next(iter(given))):
        moe_mlx.load("demo", **given)
