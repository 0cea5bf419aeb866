"""The account of one answer while it is made: its tokens so far, and the model's counts before it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from moe_mlx.conversation.answer import Answer, Piece
from moe_mlx.conversation.audit import AuditSummary
from moe_mlx.conversation.heard import Heard
from moe_mlx.conversation.receipt import Receipt, unused
from moe_mlx.counts.reads import Counts
from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.drafting.counts import DraftCounts
from moe_mlx.drafting.drafting import Drafting
from moe_mlx.loading.runtime import Runtime


@dataclass
class Account:
    """What one answer has come to.

    Attributes:
        runtime: The model's cache, whose totals run on from answer to answer.
        started: When the answer was asked for, on `time.perf_counter`.
        prompt_tokens: Tokens of the whole prompt.
        reused: Prompt tokens that were still in the prompt cache.
        refilled: Why nothing could be reused although something was kept, or "".
        heard: What they say.
        drafting: What guesses tokens, where something does.
        fed: Prompt tokens read since.
        tokens: Token ids.
        finish: Why it ended; "cancelled" until something else ends it.
        prompt_tps: Prefilled tokens a second.
        generation_tps: Generated tokens a second.
    """

    runtime: Runtime
    started: float
    prompt_tokens: int
    reused: int
    refilled: str
    heard: Heard
    drafting: Drafting | None = None
    fed: int = 0
    tokens: list[int] = field(default_factory=list)
    finish: str = "cancelled"
    prompt_tps: float = 0.0
    generation_tps: float = 0.0
    _decode: PhaseTotals = field(init=False)
    _prefill: PhaseTotals = field(init=False)
    _reads: Counts = field(init=False)
    _drafts: DraftCounts = field(init=False)

    def __post_init__(self) -> None:
        stats = self.runtime.stats
        self._decode, self._prefill, self._reads = stats.decode, stats.prefill, stats.read_totals.counts()
        self._drafts = DraftCounts() if self.drafting is None else self.drafting.counts

    def add(self, response: Any) -> Piece:
        """Takes one of mlx-lm's `GenerationResponse`s and returns what it says."""
        self.tokens.append(response.token)
        parts = self.heard.take(response.text, last=response.finish_reason is not None)
        self.prompt_tps, self.generation_tps = response.prompt_tps, response.generation_tps
        self.finish = response.finish_reason or "cancelled"
        return Piece(response.text, response.token, parts)

    def close(self, audit: AuditSummary | None, warmed: int) -> Answer:
        """Returns the answer, once no step of it is queued.

        Args:
            audit: What an audit found, if there was one.
            warmed: Experts that warm-up had read before it, since the answer before.
        """
        runtime = self.runtime
        runtime.layers.ledger.collect(closing=True)
        decode, prefill = runtime.stats.decode - self._decode, runtime.stats.prefill - self._prefill
        drafts = None if self.drafting is None else self.drafting.since(self._drafts)
        if drafts is not None:
            decode, prefill = drafts.counts.of_answer(decode, prefill)
        discarded = unused(decode, len(self.tokens), drafts)
        runtime.layers.ledger.discard(discarded)
        return Answer(
            text=self.heard.said,
            message=self.heard.message(),
            tokens=tuple(self.tokens),
            prompt_tokens=self.prompt_tokens,
            reused_tokens=self.reused,
            refilled=self.refilled,
            finish_reason=self.finish,
            prompt_tps=self.prompt_tps,
            generation_tps=self.generation_tps,
            seconds=time.perf_counter() - self.started,
            decode=decode,
            prefill=prefill,
            discarded_steps=discarded,
            reads=runtime.stats.read_totals.since(self._reads),
            receipt=Receipt.of(decode, prefill, discarded, runtime.in_force, audit, warmed, runtime.profile, drafts),
        )
