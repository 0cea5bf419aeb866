"""How long a conversation may get: what the model was made for, and what the memory plan left room for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moe_mlx.planning.kv_cache import KV_TOKENS, first_value

if TYPE_CHECKING:
    from moe_mlx.conversation.session import Session

#: Said before the end of the model's context is reached, while there is still something to be done about it.
NEAR = 0.9


def context_tokens(config: Mapping[str, Any]) -> int | None:
    """Returns the positions that a model was made for, from its config; None where that does not say."""
    limit = first_value(config, "max_position_embeddings")
    return limit if type(limit) is int and limit > 0 else None


@dataclass
class ContextWatch:
    """Says, once each, that a conversation outgrows something.

    Attributes:
        limit: Positions that the model was made for; None where unknown.
        rotating: Tokens of a KV cache that forgets the oldest (`--max-kv-size`); None for one that grows.
        room: Tokens that the memory plan left room for.
        own: Whether the model makes its own KV cache, which `--max-kv-size` does not bound.
    """

    limit: int | None
    rotating: int | None = None
    room: int = KV_TOKENS
    own: bool = False
    _said: set[str] = field(default_factory=set)

    def remarks(self, tokens: int) -> list[str]:
        """Returns what is to be said of a conversation of so many tokens, and was not said since it was shorter."""
        true = {}
        if self.limit is not None and tokens > self.limit:
            true["beyond"] = (
                f"the conversation has {tokens:,} tokens, the model was made for {self.limit:,}: what it answers from "
                "here on is beyond what it was trained on; /new starts over"
            )
        elif self.limit is not None and tokens >= NEAR * self.limit:
            true["near"] = f"the conversation has {tokens:,} of the {self.limit:,} tokens that the model was made for"
        if self.rotating is None and tokens > self.room:
            bound = "plans for more" if self.own else "bounds it"
            true["room"] = (
                f"the conversation has {tokens:,} tokens, the memory plan left room for the KV cache of {self.room:,}: "
                f"more of it comes out of what is free; --max-kv-size {bound}, /new starts over"
            )
        if self.rotating is not None and tokens > self.rotating:
            true["rotating"] = (
                f"the conversation has {tokens:,} tokens, the KV cache keeps {self.rotating:,} (--max-kv-size): the "
                "model no longer sees all of it"
            )
        fresh = [line for name, line in true.items() if name not in self._said]
        self._said = set(true)
        return fresh


def context_watch(session: Session) -> ContextWatch:
    """Returns what watches a session's conversation."""
    kv = session.runtime.kv
    rotating = None if kv.own else session.caching.max_kv_size
    return ContextWatch(context_tokens(session.runtime.config), rotating, kv.tokens, kv.own)
