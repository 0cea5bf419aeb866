"""Gradients through a layer whose experts come and go: what the forward pass read is read again on the way back.

Experts are frozen, so the gradient flows to the layer's input alone. MLX's own tape would read the slots when they have
long held other experts; here every wave's share is computed while its experts are there.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from moe_mlx.errors import UsageError
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.prefill import Pass, visit


def run_for_gradient(cache: LayerCache, x: mx.array, indices: mx.array, *args: Any, **kwargs: Any) -> mx.array:
    """Computes the routed experts of many rows so that the result can be differentiated.

    Args:
        cache: The layer.
        x: `[..., D]`.
        indices: `[..., k]` expert numbers.
        *args: None: a switch that takes more is refused.
        **kwargs: None, likewise.

    Returns:
        `[..., k, D]`, the bits of `run_prompt`.

    Raises:
        UsageError: the family's switch takes more than rows and experts.
        ExpertReadError: an expert could not be read, on the way there or back; the cache stays consistent.
    """
    if args or kwargs:
        raise UsageError(
            f"{cache.spec.path}: this family passes its experts more than rows, so no gradient goes through them here; "
            "train it resident, with mlx_lm.lora"
        )

    cache.claim()
    mx.eval(indices)
    step = cache.counter.step

    def forward(rows: mx.array) -> mx.array:
        # Nothing may be queued inside a transformation of MLX's, so each wave is waited for.
        return visit(cache, rows, indices, Pass(cache.inner, step, queue=mx.eval))

    def backward(rows: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        return _pull_back(cache, rows, indices, cotangent)

    function: Any = mx.custom_function(forward)
    function.vjp(backward)
    y: mx.array = function(x)
    return y


def _pull_back(cache: LayerCache, x: mx.array, indices: mx.array, cotangent: mx.array) -> mx.array:
    """Returns the gradient of `x`, from that of the outputs `[..., k, D]`; reads what is absent again."""
    k, width = indices.shape[-1], x.shape[-1]
    rows = mx.repeat(x.reshape(-1, width), k, axis=0)
    # A row and the gradient of its output travel together, one place each, so that waves may take them apart.
    both = mx.concatenate([rows, cotangent.reshape(-1, cotangent.shape[-1]).astype(x.dtype)], axis=-1)

    def pulled(places: mx.array, slots: mx.array) -> mx.array:
        def outputs(inputs: mx.array) -> mx.array:
            y: mx.array = cache.inner(inputs, slots)
            return y

        _, (found,) = mx.vjp(outputs, [places[:, :width]], [places[:, None, width:]])
        return found[:, None]

    cache.claim()
    step = cache.counter.enter_backward(cache.spec.index)
    mx.eval(both)
    found = visit(cache, both, indices.reshape(-1, 1), Pass(pulled, step, again=True, queue=mx.eval))
    return found.reshape(-1, k, width).sum(axis=1).reshape(x.shape)
