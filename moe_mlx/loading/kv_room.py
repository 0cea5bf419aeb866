"""What a model's KV cache is and takes, from the caches that mlx-lm itself makes for it.

mlx-lm's model is called over its own caches, and nothing of that is evaluated: a lazy array has its shape and dtype.
So sliding windows, latent attention and the states of hybrids count as what they are, whatever family they are of. It
is done before experts are capped, for a capped layer may look at its input while it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.generate import maybe_quantize_kv_cache
from mlx_lm.models import dbrx
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.errors import UsageError
from moe_mlx.planning.kv_cache import KV_TOKENS, KVWish, kv_bytes, kv_element_bytes, listed

_GROUPS = (32, 64, 128)
#: Tokens of a call that shows what a cache is; more than one, and then one: attention goes two ways.
_SOME = 33


@dataclass(frozen=True, slots=True)
class KVRoom:
    """A model's KV cache.

    Attributes:
        family: The config's model type.
        own: Whether the model makes its own caches, which no `max_kv_size` bounds.
        kinds: mlx-lm's classes of its layers' caches, each once.
        widths: Last axes of what can be quantised.
        left: Of `kinds`, those that `kv_bits` would leave as they are.
        unquantisable: Why `kv_bits` cannot be had, or "".
        tokens: Tokens that the memory plan leaves room for, over all sequences.
        nbytes: Bytes that they take.
    """

    family: str
    own: bool
    kinds: tuple[str, ...]
    widths: tuple[int, ...]
    left: tuple[str, ...]
    unquantisable: str
    tokens: int
    nbytes: int

    def check_bits(self, bits: int | None, group: int) -> None:
        """Refuses a quantised cache that would end an answer in its midst.

        Raises:
            UsageError: this family's cache cannot be quantised, or groups do not divide what is.
        """
        if bits is None:
            return
        if self.unquantisable:
            raise UsageError(f"kv_bits: the KV cache of {self.family} cannot be quantised: {self.unquantisable}")
        odd = next((width for width in self.widths if width % group), None)
        if odd is not None:
            fitting = [number for number in _GROUPS if all(width % number == 0 for width in self.widths)]
            hint = f"give {listed(fitting)}" if fitting else "leave kv_bits out"
            raise UsageError(f"kv_group_size {group} does not divide this model's heads of {odd}: {hint}")

    def remarks(self, wish: KVWish) -> list[str]:
        """Returns what of a wish is not done, one line each."""
        lines = []
        if wish.max_kv_size is not None and wish.rotating and self.own:
            lines.append(
                f"{self.family} makes its own KV cache ({', '.join(self.kinds)}), which max_kv_size does not bound: "
                f"the memory plan leaves room for {self.tokens:,} tokens"
            )
        if wish.bits is not None and self.left:
            lines.append(f"kv_bits leaves a part of {self.family}'s KV cache as it is: {', '.join(self.left)}")
        return lines


def kv_room(model: nn.Module, family: str, config: Mapping[str, Any], wish: KVWish) -> KVRoom:
    """Finds out what a model's KV cache is and takes; estimates it where the model cannot be called on this device.

    Args:
        model: mlx-lm's own, its weights still lazy.
        family: For messages.
        config: The model's, for an estimate.
        wish: What was asked for.

    Raises:
        UsageError: `kv_bits` for a cache that cannot be quantised.
    """
    with _callable(model):
        return _asked(model, family, config, wish)


def is_kind(cache: Any, *names: str) -> bool:
    """Whether a cache is of a class of one of these names: mlx-lm's, or mlx-vlm's own of the same kind."""
    return any(kind.__name__ in names for kind in type(cache).__mro__)


class _Same(nn.Module):
    """Stands in for a block that cannot be called yet: its output has its input's shape and dtype."""

    def __call__(self, x: mx.array) -> mx.array:
        return x


@contextmanager
def _callable(model: nn.Module) -> Iterator[None]:
    """Takes out the blocks of dbrx, which call their experts one by one and have them stacked here."""
    found = [m for _, m in model.named_modules() if isinstance(getattr(m, "ffn", None), dbrx.SparseMoeBlock)]
    blocks = [(module, module.ffn) for module in found]
    try:
        for module in found:
            module.ffn = _Same()
        yield
    finally:
        for module, block in blocks:
            module.ffn = block


def _asked(model: nn.Module, family: str, config: Mapping[str, Any], wish: KVWish) -> KVRoom:
    own = hasattr(model, "make_cache")
    caches = make_prompt_cache(model)
    flat = list(flat_caches(caches))
    kinds = tuple(dict.fromkeys(type(cache).__name__ for cache in flat))
    tokens = wish.max_kv_size or KV_TOKENS
    if own and wish.rotating:
        tokens = max(tokens, KV_TOKENS)
    try:
        _call(model, caches, _SOME)
    except Exception:  # a kernel or a quantisation that only a GPU has, and whatever else a family's code may want
        nbytes = kv_bytes(config, tokens, kv_element_bytes(config))
        room = KVRoom(family, own, kinds, (), (), "its model cannot run on this device", tokens, nbytes)
        room.check_bits(wish.bits, wish.group)
        return room
    quantised = [cache for cache in caches if type(cache).__name__ == "KVCache"]
    widths = tuple(dict.fromkeys(part.shape[-1] for c in quantised for part in (c.keys, c.values) if part.shape[-1]))
    left = tuple(name for name in kinds if name not in ("KVCache", "ArraysCache") or not quantised)
    if any(is_kind(cache, "CacheList") for cache in caches):
        left = (*left, "CacheList")
    room = KVRoom(family, own, kinds, widths, left, _unquantisable(model, caches, widths), tokens, 0)
    room.check_bits(wish.bits, wish.group)
    each = -(-tokens // wish.sequences)
    rotates = wish.rotating and not own and wish.bits is None
    most = None if rotates else getattr(model, "probed_tokens", None)
    if most is None or each <= most:
        held = _held_nbytes(model, each, wish, rotates=rotates)
    else:
        half, whole = (_held_nbytes(model, count, wish, rotates=False) for count in (most // 2, most))
        held = whole + -(-(whole - half) * (each - most) // (most - most // 2))
    nbytes = wish.sequences * held
    return KVRoom(family, own, kinds, widths, left, room.unquantisable, tokens, nbytes)


def flat_caches(caches: Iterable[Any]) -> Iterator[Any]:
    """Yields the caches of all layers, those of a list of caches one by one."""
    for cache in caches:
        if is_kind(cache, "CacheList"):
            yield from flat_caches(cache.caches)
        else:
            yield cache


def _call(model: nn.Module, caches: list[Any], tokens: int) -> None:
    model(mx.zeros((1, tokens), mx.int32), cache=caches)


def _held_nbytes(model: nn.Module, tokens: int, wish: KVWish, *, rotates: bool) -> int:
    """Returns the bytes of a cache that holds so many tokens, the last of them made one by one.

    Windows are wider by a chunk while a prompt is read, and have their size from the first token on.
    """
    size = wish.max_kv_size if rotates else None
    caches = make_prompt_cache(model, size)
    for count in (2 * tokens if size is not None else tokens - 1, 1):
        if count:
            _call(model, caches, count)
            maybe_quantize_kv_cache(caches, wish.start, wish.group, wish.bits)
    return sum(int(cache.nbytes) for cache in caches)


def _unquantisable(model: nn.Module, caches: list[Any], widths: tuple[int, ...]) -> str:
    """Returns why a cache cannot be quantised, or ""; `caches` have been filled and are changed."""
    if any(is_kind(cache, "RotatingKVCache") for cache in caches):
        return "mlx-lm quantises no sliding window (RotatingKVCache); leave kv_bits out"
    if not any(hasattr(cache, "to_quantized") for cache in caches):
        names = ", ".join(dict.fromkeys(type(cache).__name__ for cache in caches))
        return f"mlx-lm has no quantised form of its {names}; leave kv_bits out"
    group = next((number for number in _GROUPS if all(width % number == 0 for width in widths)), None)
    if group is None:
        return ""  # which `check_bits` says
    try:
        maybe_quantize_kv_cache(caches, 0, group, 8)
        _call(model, caches, _SOME)
        _call(model, caches, 1)
    except Exception:  # whatever a family's attention makes of a cache that it was not written for
        return "its attention does not read one, as mlx-lm has it (latent attention and the like); leave kv_bits out"
    return ""
