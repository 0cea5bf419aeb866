"""Counts what crosses between streams in a decode step's own graph: the same on every machine, so no timing."""

from __future__ import annotations

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.loading.runtime import Runtime
from moe_mlx.routing.names import NATIVE


def crossings_per_token(runtime: Runtime) -> int:
    """Returns the arrays that one decode step sends to its fetches and takes from them; 0 where it is read back.

    A step is built with the fetches on a stream of their own, counted, and run; counters and residency move on by it.
    """
    native = runtime.layers.native
    if native is None or runtime.decode_way != NATIVE:
        return 0
    apart, native.streams.apart = native.streams.apart, True
    try:
        logits = runtime.model(mx.array([[0]]), cache=make_prompt_cache(runtime.model))
        found = sum(native.crossings([logits]))
        mx.eval(logits)
    finally:
        native.streams.apart = apart
        runtime.drain()
    return found
