"""What a block does around its experts once it knows their weights: restated for blocks that route inline.

Each takes the block, its input, the experts' outputs `[..., k, D]` and the weights `[..., k]`, and returns the block's
output, in the block's own order of operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

Combine = Callable[[Any, mx.array, mx.array, mx.array], mx.array]


def weighed(block: Any, x: mx.array, y: mx.array, weights: mx.array) -> mx.array:
    """Nothing but the weighed sum."""
    return (y * weights[..., None]).sum(axis=-2)


def weighed_like(block: Any, x: mx.array, y: mx.array, weights: mx.array) -> mx.array:
    """The weighed sum in the experts' dtype."""
    return (y * weights[..., None]).sum(axis=-2).astype(y.dtype)


def gated_shared(block: Any, x: mx.array, y: mx.array, weights: mx.array) -> mx.array:
    """Qwen2-MoE, Qwen3-Next: a shared expert behind a gate of its own."""
    shared = mx.sigmoid(block.shared_expert_gate(x)) * block.shared_expert(x)
    return weighed(block, x, y, weights) + shared


def shared(block: Any, x: mx.array, y: mx.array, weights: mx.array) -> mx.array:
    """ERNIE 4.5, AFMoE, Mistral 4: a shared expert, where the configuration has one."""
    out = weighed_like(block, x, y, weights)
    return out if getattr(block, "shared_experts", None) is None else out + block.shared_experts(x)


def shared_promoted(block: Any, x: mx.array, y: mx.array, weights: mx.array) -> mx.array:
    """Kimi Linear, MiniMax M3: the same, in the weights' dtype."""
    out = weighed(block, x, y, weights)
    return out if block.shared_experts is None else out + block.shared_experts(x)


def mixed_shared(block: Any, x: mx.array, y: mx.array, weights: mx.array) -> mx.array:
    """Hunyuan: weighed in float32, a shared MLP where the configuration has one."""
    out = (y * weights[..., None].astype(mx.float32)).sum(axis=-2).astype(y.dtype)
    return out + block.shared_mlp(x) if block.use_shared_mlp else out


def coefficient(block: Any, x: mx.array, y: mx.array, weights: mx.array) -> mx.array:
    """Klear: routed and shared experts mixed by a learned coefficient."""
    out = weighed(block, x, y, weights)
    mix = mx.softmax(block.coefficient(x), axis=-1, precise=True)
    return out * mix[..., :1] + block.shared_experts(x) * mix[..., 1:]


def latent_shared(block: Any, x: mx.array, y: mx.array, weights: mx.array) -> mx.array:
    """Kimi K3: back up from the experts' latent width, a shared expert beside."""
    out = weighed(block, x, y, weights)
    if block.routed_expert_norm is not None:
        out = block.routed_expert_norm(out)
    if block.latent_size is not None:
        out = block.routed_expert_up_proj(out)
    return out if block.shared_experts is None else out + block.shared_experts(x)


def muse_spark(block: Any, x: mx.array, y: mx.array, weights: mx.array) -> mx.array:
    """Muse Spark: normed and summed in one Metal kernel, then back up."""
    from mlx_lm.models.muse_spark import post_expert_norm_combine

    norm = block.experts.post_expert_norm
    out: mx.array = block.post_expert_proj(post_expert_norm_combine(y, weights, norm_weight=norm.weight, eps=norm.eps))
    return out


def cohere(block: Any, x: mx.array, y: mx.array, weights: mx.array) -> mx.array:
    """Cohere2 MoE: shared experts, averaged with the routed ones or added to them."""
    out = weighed_like(block, x, y, weights)
    if block.shared_experts is None:
        return out
    averaged = block.shared_expert_combination_strategy == "average"
    return (out + block.shared_experts(x)) / 2 if averaged else out + block.shared_experts(x)


def flint(block: Any, x: mx.array, y: mx.array, weights: mx.array) -> mx.array:
    """Flint: weighed in float32, a shared expert where the configuration has one."""
    out = (y.astype(mx.float32) * weights[..., None]).sum(axis=-2).astype(x.dtype)
    return out if block.shared_expert is None else out + block.shared_expert(x)


Enter = Callable[[Any, mx.array], mx.array]


def as_is(block: Any, x: mx.array) -> mx.array:
    """The experts get the block's input."""
    return x


def kimi_latent(block: Any, x: mx.array) -> mx.array:
    """The experts get a narrower projection, where the configuration has one."""
    return x if block.latent_size is None else block.routed_expert_down_proj(x)


def muse_latent(block: Any, x: mx.array) -> mx.array:
    """The experts get a narrower, normed projection."""
    h: mx.array = block.pre_expert_norm(block.pre_expert_proj(x))
    return h
