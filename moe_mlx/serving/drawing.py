"""mlx-lm's samplers and logits processors for one answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from moe_mlx.serving.job import Drawing, TokenChance

Sampler = Callable[[mx.array], mx.array]
Processor = Callable[[mx.array, mx.array], mx.array]


def sampler_of(drawing: Drawing, vocabulary: int, spared: list[int]) -> Sampler:
    """Returns what draws a token.

    Args:
        drawing: As asked for.
        vocabulary: Width of the logits; a `top_k` that reaches beyond it means all of them.
        spared: Token ids that XTC never removes.
    """
    top_k = drawing.top_k if 0 < drawing.top_k < vocabulary else 0
    sampler: Sampler = make_sampler(
        drawing.temp,
        drawing.top_p,
        drawing.min_p,
        top_k=top_k,
        xtc_probability=drawing.xtc_probability,
        xtc_threshold=drawing.xtc_threshold,
        xtc_special_tokens=spared,
    )
    return sampler


def processors_of(drawing: Drawing) -> list[Processor]:
    """Returns what changes the logits; a penalty that looks back no tokens changes none."""
    penalties = {
        name: (value if size else 0.0, size)
        for name, value, size in (
            ("repetition", drawing.repetition_penalty, drawing.repetition_context_size),
            ("presence", drawing.presence_penalty, drawing.presence_context_size),
            ("frequency", drawing.frequency_penalty, drawing.frequency_context_size),
        )
    }
    options: dict[str, Any] = {}
    for name, (value, size) in penalties.items():
        if value and not (name == "repetition" and value == 1.0):
            options |= {f"{name}_penalty": value, f"{name}_context_size": size}
    processors: list[Processor] = make_logits_processors(dict(drawing.bias) or None, **options)
    return processors


def chance_of(logprobs: mx.array, token: int, likeliest: int) -> TokenChance:
    """Returns the log probability of a token `[V]`, and of so many of the likeliest ones."""
    beside: tuple[TokenChance, ...] = ()
    likeliest = min(likeliest, int(logprobs.shape[-1]))
    if likeliest > 0:
        best = mx.argpartition(-logprobs, kth=likeliest - 1)[:likeliest]
        pairs = sorted(zip(logprobs[best].tolist(), best.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
        beside = tuple(TokenChance(place, _finite(value)) for value, place in pairs)
    return TokenChance(token, _finite(logprobs[token].item()), beside)


def _finite(value: Any) -> float:
    """JSON knows no infinity; OpenAI writes -9999 for what cannot come."""
    return max(float(value), -9999.0)
