"""Numbers that are none: noticed in what mlx-lm hands over anyway; looked for afterwards where they may come from."""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Iterator

import mlx.core as mx
from mlx.utils import tree_flatten

from moe_mlx.errors import NotFiniteError
from moe_mlx.loading.runtime import Runtime

_LAYER = re.compile(r"\.layers?\.(\d+)\.")
#: Layer numbers of what stands before and behind all layers.
_BEFORE, _BEHIND = -1, 1 << 30


def is_number(logprobs: mx.array, token: int) -> bool:
    """Whether a drawn token's log probability is a number: none is where any of the logits is not.

    Args:
        logprobs: `[V]`; where it is evaluated, as mlx-lm evaluates it with the token, this reads memory and no more.
        token: Its id.
    """
    data = memoryview(logprobs)[token : token + 1].tobytes()
    if logprobs.dtype == mx.bfloat16:  # the upper half of a float32
        return not math.isnan(struct.unpack("=f", bytes(2) + data if sys.byteorder == "little" else data + bytes(2))[0])
    return not math.isnan(struct.unpack("=e" if len(data) == 2 else "=f", data)[0])


def not_finite(runtime: Runtime, tokens: int) -> NotFiniteError:
    """Returns what is said of an answer whose numbers are none.

    Args:
        runtime: Of the model; its queued work is done.
        tokens: Of the answer, the one that showed it included.
    """
    found = min(_places(runtime), default=None)
    cause = "no weight in memory is, so they overflow while the model computes, or come from an expert that gave way"
    if found is not None:
        cause = f"the first weights that are not: {found[1]}. Fetch or convert the model again"
    return NotFiniteError(f"the model's numbers are not finite (NaN) at token {tokens} of the answer: {cause}")


def _places(runtime: Runtime) -> Iterator[tuple[int, str]]:
    """Yields layer and name of weights in memory that are not finite, a name for each expert."""
    experts = {id(array) for cache in runtime.layers for array in cache.bank.arrays}
    for name, array in tree_flatten(runtime.model.parameters()):
        if id(array) not in experts and _odd(array):
            layer = _LAYER.search(f".{name}")
            first = "embed" in name or "wte" in name
            yield int(layer[1]) if layer else _BEFORE if first else _BEHIND, name
    for cache in runtime.layers:
        for spec, array in zip(cache.bank.specs, cache.bank.arrays, strict=True):
            if not _odd(array):
                continue
            bad = ~mx.isfinite(array.reshape(array.shape[0], -1)).all(axis=1)
            for slot, expert in enumerate(cache.table.owner[: cache.table.slots]):
                if expert >= 0 and bad[slot].item():
                    yield cache.spec.layer, f"layer {cache.spec.layer}, expert {expert} ({spec.name})"


def _odd(array: mx.array) -> bool:
    return mx.issubdtype(array.dtype, mx.floating) and not mx.isfinite(array).all().item()
