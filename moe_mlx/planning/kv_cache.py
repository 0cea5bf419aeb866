"""What of a KV cache is asked for; and what it takes as far as a config tells, where there is no model to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_mlx.errors import StoreCorruptError

#: Tokens that a memory plan leaves room for where nothing else is asked for.
KV_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class KVWish:
    """What the KV cache of a loaded model is planned for.

    Attributes:
        max_kv_size: Tokens to leave room for; None for `KV_TOKENS`.
        rotating: Whether a conversation's cache is bounded to that, where the family lets mlx-lm make it.
        sequences: Answers made at once, which share those tokens.
        bits: As `kv_bits`; None for no quantisation.
        group: As `kv_group_size`.
        start: As `quantized_kv_start`.
    """

    max_kv_size: int | None = None
    rotating: bool = True
    sequences: int = 1
    bits: int | None = None
    group: int = 64
    start: int = 5000


def listed(numbers: Sequence[int]) -> str:
    """Returns numbers as a choice: "32, 64 or 128"."""
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last


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

    A loaded model is asked itself (`moe_mlx.loading.kv_room`); this is for models of which there is a config alone.

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
