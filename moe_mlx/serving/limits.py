"""How much one client, and all of them together, may ask of the server; and how many tokens memory was planned for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_mlx.conversation.context import context_tokens
from moe_mlx.planning.kv_cache import first_value


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that the owner of the server sets.

    Attributes:
        body_bytes: Largest request.
        waiting: Requests that may wait for their turn; the next one is told to come back (429).
        at_once: Answers made at once.
        connections: Open connections.
        head_seconds: For a request's head to arrive.
        body_seconds: For its body.
        send_seconds: For a client to take what was sent to it.
        shutdown_seconds: For answers under way to end when the server is told to.
        quiet_seconds: After which a stream that has nothing to send yet says that it is alive.
    """

    body_bytes: int = 16_000_000
    waiting: int = 32
    at_once: int = 8
    connections: int = 256
    head_seconds: float = 15.0
    body_seconds: float = 60.0
    send_seconds: float = 60.0
    shutdown_seconds: float = 10.0
    quiet_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens that the memory plan has room for.

    Attributes:
        planned: Tokens of KV cache in the plan, for all answers under way and all prompts kept.
        context: Positions that the model was made for; None where unknown.
        token_nbytes: Bytes of one token's KV cache, where as many answers as can be share what was planned.
        chunk: Prompt tokens computed at a time.
        vocabulary: Width of the logits.
    """

    planned: int
    context: int | None
    token_nbytes: int
    chunk: int
    vocabulary: int

    @property
    def longest(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.planned if self.context is None else min(self.planned, self.context)

    def why(self) -> str:
        """Returns what bounds `longest`, and what to do about it."""
        if self.context is not None and self.context <= self.planned:
            return "that is the model's context, and an answer needs room in it"
        return "that is what its memory plan leaves room for, an answer included; --max-kv-size plans for more"


def room_of(
    config: Mapping[str, Any],
    planned: int,
    kv_cache: int,
    mlx_cache: int,
    chunk: int,
    *,
    scores_in_memory: bool = False,
) -> Room:
    """Returns the room of a model.

    Args:
        config: Its config.json.
        planned: Tokens of KV cache in the memory plan.
        kv_cache: Bytes that it has for them.
        mlx_cache: Bytes of MLX's buffer cache.
        chunk: Prompt tokens at a time, as asked for.
        scores_in_memory: Whether attention writes out its scores (heads x chunk x length), as MLX's CPU kernels do:
            there the chunk shrinks with the length that prompts may have, so that scores stay near MLX's buffer cache.
    """
    token, context = max(1, kv_cache // planned), context_tokens(config)
    if scores_in_memory:
        heads = int(first_value(config, "num_attention_heads", "n_heads", "n_head") or 1)
        longest = planned if context is None else min(planned, context)
        fits = 2 * mlx_cache // max(1, 2 * 4 * heads * longest)  # scores and their softmax, float32
        chunk = min(chunk, max(64, 1 << max(0, int(fits).bit_length() - 1)))
    vocabulary = int(first_value(config, "vocab_size") or 0)
    return Room(planned, context, token, chunk, vocabulary)
