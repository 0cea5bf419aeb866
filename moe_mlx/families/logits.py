"""How the routers of mlx-lm's families come to their logits, `[..., D]` to `[..., E]`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from moe_mlx.families.routers import Logits, attribute


def linear(path: str) -> Logits:
    """Logits from a linear layer."""
    return lambda module, x: attribute(module, path)(x)


def matrix(module: Any, x: mx.array) -> mx.array:
    """Logits from a bare matrix."""
    z: mx.array = x @ module.weight.T
    return z


def wide_matrix(module: Any, x: mx.array) -> mx.array:
    """Logits from a bare matrix, in float32."""
    z: mx.array = x.astype(mx.float32) @ module.weight.astype(mx.float32).T
    return z


def wide_input_matrix(module: Any, x: mx.array) -> mx.array:
    """Logits from a bare matrix, of an input in float32."""
    z: mx.array = x.astype(mx.float32) @ module.weight.T
    return z


def tempered(module: Any, x: mx.array) -> mx.array:
    """DeepSeek-V4.1: the same, over a temperature."""
    return wide_matrix(module, x) / module.gate_temp


def softcapped(module: Any, x: mx.array) -> mx.array:
    """Laguna: logits in float32, capped if configured."""
    z: mx.array = module.proj(x).astype(mx.float32)
    return mx.tanh(z / module.softcap) * module.softcap if module.softcap > 0.0 else z


def wide_input(module: Any, x: mx.array) -> mx.array:
    """MiniMax: the gate gets its input in float32."""
    z: mx.array = module.gate(x.astype(mx.float32))
    return z


def normed(module: Any, x: mx.array) -> mx.array:
    """Gemma 4: the router norms and scales its input first."""
    z: mx.array = module.proj(mx.fast.rms_norm(x, module.scale * module._root_size, module.eps))
    return z
