"""What an answer is made of, and what it took."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mlx.conversation.message import Message
from moe_mlx.conversation.receipt import Receipt
from moe_mlx.conversation.text_reader import Part
from moe_mlx.counts.reads import ReadStats
from moe_mlx.counts.totals import PhaseTotals


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer as it is made: new text (may be empty) and the token behind it.

    Attributes:
        text: As the model gave it, markers of reasoning and calls included.
        token: The token's id.
        parts: What is known of it by kind, without the markers; half a marker waits for the next piece.
    """

    text: str
    token: int
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and what it took.

    Attributes:
        text: All of it, as the model gave it.
        message: The same for the conversation's next prompt: content, reasoning and calls apart.
        tokens: Token ids, the end-of-sequence token included where there was one.
        prompt_tokens: Tokens of the whole prompt.
        reused_tokens: Prompt tokens that were still in the cache.
        refilled: Why nothing could be reused although something was kept, or "".
        finish_reason: "stop", "length", or "cancelled".
        prompt_tps: Prefilled tokens a second.
        generation_tps: Generated tokens a second.
        seconds: Wall time.
        decode: Counts of the decode steps, the step run ahead included.
        prefill: Counts of the prompt.
        discarded_steps: Steps run ahead whose token was not used.
        reads: Depth and latency of the expert reads, of prompt and decode.
        receipt: The same counts as every front end shows them, with what an audit found.
    """

    text: str
    message: Message
    tokens: tuple[int, ...]
    prompt_tokens: int
    reused_tokens: int
    refilled: str
    finish_reason: str
    prompt_tps: float
    generation_tps: float
    seconds: float
    decode: PhaseTotals
    prefill: PhaseTotals
    discarded_steps: int
    reads: ReadStats
    receipt: Receipt
