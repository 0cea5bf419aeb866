"""Whether a prompt cache can be cut back to a shorter beginning, and doing it.

mlx-lm says what can be trimmed; a chunked cache says yes although it has let go of the front that a cut would need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache

from moe_mlx.loading.kv_room import flat_caches, is_kind


def can_cut(cache: Sequence[Any]) -> bool:
    """Returns whether this cache can be cut back to any shorter beginning as it stands."""
    return bool(can_trim_prompt_cache(list(cache))) and not lost_front(cache)


def lost_front(cache: Sequence[Any]) -> bool:
    """Returns whether a part of this cache has let go of its first positions though mlx-lm would cut it."""
    return any(is_kind(one, "ChunkedKVCache") and one.start_position > 0 for one in flat_caches(cache))


def can_always_cut(empty: Sequence[Any]) -> bool:
    """Returns whether caches of this kind can be cut back however long they get; `empty` is one of them."""
    windowed = ("RotatingKVCache", "ChunkedKVCache")
    return bool(can_trim_prompt_cache(list(empty))) and not any(is_kind(one, *windowed) for one in flat_caches(empty))


def cut_back(cache: list[Any], tokens: int) -> bool:
    """Cuts tokens off the end; returns whether that was possible. The cache is of no use where it was not."""
    return not tokens or (can_cut(cache) and trim_prompt_cache(cache, tokens) == tokens)
