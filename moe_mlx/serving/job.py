"""One answer to be made: what the generating thread needs of it, and what it sends back while it works."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moe_mlx.drafting.counts import DraftCounts
from moe_mlx.serving.refusal import RefusalError

if TYPE_CHECKING:
    from moe_mlx.conversation.text_reader import TextReader
    from moe_mlx.counts.totals import PhaseTotals
    from moe_mlx.serving.loaded import Opening


@dataclass(frozen=True, slots=True)
class Drawing:
    """How tokens are drawn, complete and checked: nothing here can hurt MLX.

    Attributes:
        bias: Token ids within the vocabulary, and what is added to their logits.
    """

    max_tokens: int
    temp: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repetition_penalty: float = 0.0
    repetition_context_size: int = 20
    presence_penalty: float = 0.0
    presence_context_size: int = 20
    frequency_penalty: float = 0.0
    frequency_context_size: int = 20
    bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    draft_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Began:
    """The answer is under way."""

    prompt_tokens: int
    reused_tokens: int


@dataclass(frozen=True, slots=True)
class Reading:
    """The prompt is being read: tokens done and in all. Both 0 while others are served first."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A token and its log probability; `beside` holds the likeliest ones."""

    token: int
    logprob: float
    beside: tuple[TokenChance, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of an answer: text by kind ("normal", "reasoning" or "tool"), pieces may be empty."""

    parts: tuple[tuple[str, str], ...]
    chance: TokenChance | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took.

    Attributes:
        prompt_tokens: Of the whole prompt.
        reused_tokens: Of these, found in a prompt cache.
        tokens: Generated, the one that ended the answer included.
        queued_seconds: Until it was its turn.
        first_token_seconds: From the request to its first token.
        seconds: From the request to its end.
        receipt: Counts of the expert cache while the answer was made, as `Receipt.as_dict` has them, and `shared_by`:
            answers that were made in the same steps.
    """

    prompt_tokens: int
    reused_tokens: int
    tokens: int
    queued_seconds: float
    first_token_seconds: float
    seconds: float
    receipt: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer is complete: "stop" (its own end), "stop_sequence" (a text that was given) or "length"."""

    reason: str
    usage: Usage
    stop_sequence: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer ends with an error."""

    refusal: RefusalError


Event = Began | Reading | Said | Ended | Failed


@dataclass(eq=False)
class Job:
    """One answer.

    Attributes:
        prompt: Token ids.
        boundaries: Places in the prompt where its cache is worth keeping, for models whose cache cannot be trimmed.
        drawing: How tokens are drawn.
        stops: Texts that end it.
        emit: Gets every event; called by the generating thread, must not block.
        state: What the answer begins in: "normal", "reasoning" or "tool".
        tools: Whether tool calls are told apart from text.
        likeliest: Log probabilities of how many tokens beside the drawn one; None for none at all.
        grammar: A grammar that the answer has to keep to, as llguidance writes it.
        alone: Whether no other answer may be made in the same steps.
        raw: Whether all of it is plain text, markers of reasoning and calls included.
        opening: The model that is asked; None for the one that is loaded.
    """

    prompt: list[int]
    drawing: Drawing
    emit: Callable[[Event], None]
    boundaries: tuple[int, ...] = ()
    stops: tuple[str, ...] = ()
    state: str = "normal"
    tools: bool = False
    likeliest: int | None = None
    grammar: str | None = None
    alone: bool = False
    raw: bool = False
    opening: Opening | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    left: threading.Event = field(default_factory=threading.Event)
    asked_at: float = field(default_factory=time.monotonic)
    began_at: float | None = None
    first_at: float | None = None
    tokens: list[int] = field(default_factory=list)
    reused: int = 0
    shared_by: int = 1
    reader: TextReader | None = None
    before: tuple[PhaseTotals, PhaseTotals] | None = None
    drafts_before: DraftCounts = field(default_factory=DraftCounts)

    @property
    def need(self) -> int:
        """Tokens of KV cache that it may come to."""
        return len(self.prompt) + self.drawing.max_tokens

    def cancel(self) -> None:
        """Ends it at the next step; from any thread."""
        self.left.set()
