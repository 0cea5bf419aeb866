"""How an answer is drawn and how its KV cache is kept: names and defaults are mlx-lm's."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mlx.errors import UsageError


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
        if self.temp < 0.0:
            raise UsageError(f"temp is {self.temp}: give 0 (greedy) or more")


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The KV cache: its size in tokens (None grows), the prompt chunk, quantisation; names are mlx_lm's."""

    max_kv_size: int | None = None
    prefill_step_size: int = 2048
    kv_bits: int | None = None
    kv_group_size: int = 64
    quantized_kv_start: int = 5000
