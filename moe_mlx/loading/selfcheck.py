"""Decodes a few tokens both ways on the model that was loaded and compares everything, bit for bit.

It also guards what could not be tried where this was written: a GPU's view of slots that the CPU rewrites.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.errors import ExpertReadError
from moe_mlx.loading.cached_layers import CachedLayers
from moe_mlx.routing.names import NATIVE, READBACK

#: Tokens decoded each way: the second meets slots that the first filled. The third is left out where a token may read
#: more than `CHEAP_BYTES`, to keep loading quick.
TOKENS = 3
CHEAP_BYTES = 100_000_000

Outcome = tuple[list[mx.array], list[tuple[Any, ...]], tuple[int, ...] | str]


def self_check(model: nn.Module, cached: CachedLayers, *, alone: bool = True) -> str:
    """Compares both ways; the caches are empty before and after.

    Args:
        model: The model.
        cached: Its layers.
        alone: Whether no other process runs the same steps: those need as many from each, and an error at once.

    Returns:
        What differs, in a few words; nothing where they agree.
    """
    at_most = sum(layer.top_k * layer.expert_nbytes for layer in cached.source.layers)
    tokens = TOKENS - (not alone or at_most > CHEAP_BYTES)
    try:
        native = _run(model, cached, NATIVE, tokens, alone=alone)
        readback = _run(model, cached, READBACK, tokens, alone=alone)
    finally:
        cached.use_decode(READBACK)
        cached.empty()
    if native[2] != readback[2]:
        return f"self-check: {native[2]} in the graph, {readback[2]} read back"
    if native[1] != readback[1]:
        return "self-check: the residency tables differ"
    same = all(bool(mx.array_equal(a, b, equal_nan=True)) for a, b in zip(native[0], readback[0], strict=True))
    return "" if same else "self-check: the logits differ"


def _run(model: nn.Module, cached: CachedLayers, way: str, tokens: int, *, alone: bool) -> Outcome:
    cached.use_decode(way)
    cached.empty()
    logits: list[mx.array] = []
    counted: tuple[int, ...] | str
    try:
        prompt_cache = make_prompt_cache(model)
        queued: list[mx.array] = []
        for token in range(1, tokens + 1):
            queued.append(model(mx.array([[token]]), cache=prompt_cache))
            mx.async_eval(queued[-1])  # two tokens at once in the queue, as in mlx-lm's own loop
        mx.eval(queued)
        logits = queued
        totals = cached.stats.decode
        counted = (totals.hits, totals.misses, totals.swapped, totals.bytes_read)
    except ExpertReadError as error:
        if not alone:
            raise
        counted = str(error)
        cached.drain()
    tables = [
        tuple(getattr(cache.table, name).tobytes() for name in ("slot_of", "used", "state", *cache.table.COUNTS))
        for cache in cached
    ]
    return logits, tables, counted
