"""What a KV cache takes, from a model's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_mlx.errors import StoreCorruptError

#: Tokens that a memory plan leaves room for where nothing else is asked for.
KV_TOKENS = 8192


def first_value(config: Mapping[str, Any], *names: str) -> Any:
    """Returns what a config, or its language model's, has under the first of some names that is set; else None."""
    for scope in (config, config.get("text_config"), config.get("llm_config")):
        for name in names:
            if isinstance(scope, Mapping) and scope.get(name) is not None:
                return scope[name]
    return None


def _count(config: Mapping[str, Any], *names: str) -> int:
    """Returns the first of some counts that a config has, 0 where it has none.

    Raises:
        StoreCorruptError: it is no count.
    """
    value = first_value(config, *names)
    if value is not None and (type(value) is not int or not 0 <= value < 1 << 31):
        raise StoreCorruptError(f"config.json has {names[0]} = {str(value)[:80]}: a count is needed. Fetch it again.")
    return value or 0


def kv_element_bytes(config: Mapping[str, Any]) -> int:
    """Returns the bytes of one element of the KV cache: what the model computes in."""
    return 4 if str(first_value(config, "torch_dtype", "dtype")).endswith("float32") else 2


def kv_bytes(config: Mapping[str, Any], tokens: int, element_bytes: int) -> int:
    """Estimates the KV cache of `tokens` positions from a config, every layer taken as full attention.

    Latent attention (kv_lora_rank) keeps one compressed vector and the rotary key a position.

    Raises:
        StoreCorruptError: the config has something else where a count should be.
    """
    layers = _count(config, "num_hidden_layers", "n_layers", "n_layer", "num_layers")
    if rank := _count(config, "kv_lora_rank"):
        return layers * tokens * (rank + _count(config, "qk_rope_head_dim")) * element_bytes
    heads = _count(config, "num_attention_heads", "n_heads", "n_head") or 1
    kv_heads = _count(config, "num_key_value_heads", "n_kv_heads") or heads
    return 2 * layers * kv_heads * head_width(config) * tokens * element_bytes


def head_width(config: Mapping[str, Any]) -> int:
    """Returns the width of an attention head, 0 where a config does not tell or attention is latent.

    Raises:
        StoreCorruptError: the config has something else where a count should be.
    """
    if _count(config, "kv_lora_rank"):
        return 0
    heads = _count(config, "num_attention_heads", "n_heads", "n_head") or 1
    hidden = _count(config, "hidden_size", "d_model", "n_embd", "model_dim")
    return _count(config, "head_dim") or hidden // heads
