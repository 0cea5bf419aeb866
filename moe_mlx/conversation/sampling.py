"""How an answer is drawn and how its KV cache is kept: names and defaults are mlx-lm's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moe_mlx.errors import UsageError
from moe_mlx.planning.kv_cache import KVWish, listed
from moe_mlx.system.given import check_whole

#: What `mx.quantize` takes in its affine mode.
KV_BITS, KV_GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn and how many; names and defaults are mlx_lm.generate's."""

    max_tokens: int = 1024
    temp: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    min_tokens_to_keep: int = 1
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens == 0 or self.max_tokens < -1:
            raise UsageError(f"max_tokens is {self.max_tokens}: give a positive number, or -1 for no limit")
        for name in ("top_p", "min_p", "xtc_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"{name} is {getattr(self, name)}: give a number from 0 to 1")
        if not 0.0 <= self.temp < math.inf:
            raise UsageError(f"temp is {self.temp}: give 0 (greedy) or more")
        if not 0.0 <= self.xtc_threshold <= 0.5:
            raise UsageError(f"xtc_threshold is {self.xtc_threshold}: give a number from 0 to 0.5")
        if self.repetition_penalty is not None and not 0.0 <= self.repetition_penalty < math.inf:
            raise UsageError(f"repetition_penalty is {self.repetition_penalty}: give 1 (none) or more")
        check_whole("top_k", self.top_k, 0)
        check_whole("min_tokens_to_keep", self.min_tokens_to_keep, of="tokens")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise UsageError(f"seed is {self.seed}: give a whole number from 0 to 2^64 - 1")


@dataclass(frozen=True, slots=True)
class KVCacheSettings:
    """The KV cache: its size in tokens (None grows), the prompt chunk, quantisation; names are mlx_lm's."""

    max_kv_size: int | None = None
    prefill_step_size: int = 2048
    kv_bits: int | None = None
    kv_group_size: int = 64
    quantized_kv_start: int = 5000

    def __post_init__(self) -> None:
        for name in ("max_kv_size", "prefill_step_size"):
            value = getattr(self, name)
            if value is not None:
                check_whole(name, value, of="tokens")
        if self.kv_bits is not None and self.kv_bits not in KV_BITS:
            raise UsageError(f"kv_bits is {self.kv_bits}: MLX quantises to {listed(KV_BITS)} bits")
        if self.kv_group_size not in KV_GROUPS:
            raise UsageError(f"kv_group_size is {self.kv_group_size}: MLX has groups of {listed(KV_GROUPS)}")
        if self.quantized_kv_start < 0:
            raise UsageError(f"quantized_kv_start is {self.quantized_kv_start}: give 0 or more")
        if self.kv_bits is not None and self.max_kv_size is not None:
            raise UsageError("kv_bits and max_kv_size exclude each other: mlx-lm quantises no cache that rotates")

    @property
    def wish(self) -> KVWish:
        """What a conversation under these settings makes of a model's KV cache."""
        return KVWish(self.max_kv_size, bits=self.kv_bits, group=self.kv_group_size, start=self.quantized_kv_start)
