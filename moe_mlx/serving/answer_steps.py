"""What is done for one answer on the generating thread: its beginning, each of its tokens, its account at the end."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.conversation.not_finite import is_number, not_finite
from moe_mlx.conversation.receipt import Receipt, unused
from moe_mlx.conversation.text_reader import TextReader
from moe_mlx.conversation.tool_format import MARKERS
from moe_mlx.drafting.counts import DraftCounts
from moe_mlx.errors import ExpertReadError
from moe_mlx.serving.drawing import chance_of, processors_of, sampler_of
from moe_mlx.serving.grammar import Grammars
from moe_mlx.serving.job import Began, Ended, Job, Said, Usage
from moe_mlx.serving.kept_prompts import KeptPrompts
from moe_mlx.serving.loaded import Loaded
from moe_mlx.serving.runners import Drawn, Start
from moe_mlx.vlm.processing import PicturePrompt

#: Tokens between two looks at whether the model's numbers are numbers.
LOOK_EVERY = 32


class AnswerSteps:
    """The steps of answers of one model."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.runtime = loaded, loaded.runtime
        self._spared = [*loaded.tokenizer.encode("\n"), *loaded.tokenizer.eos_token_ids]
        self._grammars = Grammars(loaded.tokenizer, loaded.room.vocabulary)
        self._audit: dict[Job, ExitStack] = {}

    def begin(self, job: Job, kept: KeptPrompts) -> Start:
        """Returns what a runner begins with, the longest known beginning of its prompt included.

        Raises:
            RefusalError: its grammar is none.
        """
        drawing = job.drawing
        pictured = isinstance(job.prompt, PicturePrompt)
        # One that was broken off goes on from the tokens it has.
        prompt = job.prompt.then(job.tokens) if isinstance(job.prompt, PicturePrompt) else job.prompt + job.tokens
        processors = processors_of(drawing)
        if job.grammar is not None:
            processors.append(self._grammars.processor(job.grammar, len(job.prompt), job.tokens))
        if drawing.seed is not None:
            mx.random.seed(drawing.seed)
        cache: list[Any]
        if self.loaded.session is not None:  # keeps a cache on every machine, and says what of it serves
            cache, reused = [], 0
        elif pictured:
            cache, reused = make_prompt_cache(self.loaded.model), 0
        else:
            cache, reused = kept.begin(prompt)
        if job.began_at is None and self.loaded.session is None:
            self.begun(job, reused)
        if self.loaded.auditor is not None:
            self._audit[job] = stack = ExitStack()
            self.loaded.auditor.reset()
            stack.enter_context(self.loaded.auditor)
        sampler = sampler_of(drawing, self.loaded.room.vocabulary, self._spared)
        return Start(job, prompt, cache, reused, sampler, processors)

    def begun(self, job: Job, reused: int) -> None:
        """Notes where an answer begins, and tells its client."""
        job.began_at, job.reused = time.monotonic(), reused
        job.before = (self.runtime.stats.decode, self.runtime.stats.prefill)
        job.drafts_before = DraftCounts() if self.loaded.drafting is None else self.loaded.drafting.counts
        job.reader = TextReader(
            self.loaded.tokenizer, job.stops, job.state, markers=MARKERS, tools=job.tools, raw=job.raw
        )
        job.emit(Began(len(job.prompt), reused))

    def drawn(self, job: Job, drawn: Drawn) -> bool:
        """Takes a token of an answer and sends what it says; returns whether the answer is complete.

        Raises:
            NotFiniteError: the model's numbers are none.
        """
        assert job.reader is not None
        job.tokens.append(drawn.token)
        ends = drawn.token in self.loaded.tokenizer.eos_token_ids
        # Of a batch, a row is a computation of its own: it is looked at first, last, and now and then.
        looks = ends or len(job.tokens) % LOOK_EVERY == 1
        if looks and not is_number(drawn.logprobs, drawn.token):
            self.runtime.drain()
            raise not_finite(self.runtime, len(job.tokens))
        if job.first_at is None:
            job.first_at = time.monotonic()
        if ends:
            return True
        parts = job.reader.take(drawn.token)
        chance = None if job.likeliest is None else chance_of(drawn.logprobs, drawn.token, job.likeliest)
        if parts or chance is not None:
            job.emit(Said(tuple(parts), chance))
        return job.reader.stop_sequence is not None or len(job.tokens) >= job.drawing.max_tokens

    def end(self, job: Job, usage: Usage) -> None:
        """Sends what is left of an answer, why it ended and what it took."""
        assert job.reader is not None
        if rest := job.reader.finish():
            job.emit(Said(tuple(rest)))
        own = job.tokens[-1] in self.loaded.tokenizer.eos_token_ids
        sequence = None if own else job.reader.stop_sequence
        reason = "stop" if own else "stop_sequence" if sequence is not None else "length"
        job.emit(Ended(reason, usage, sequence))

    def leave(self, job: Job) -> None:
        """Ends an audit, if there was one."""
        if (stack := self._audit.pop(job, None)) is not None:
            stack.close()

    def queued_failure(self) -> ExpertReadError | None:
        """Waits for queued work; returns what it ran into and the next step will tell: its caches are no good."""
        self.runtime.drain()
        return None if self.runtime.layers.native is None else self.runtime.layers.native.untold

    def account(self, job: Job) -> Usage:
        """Returns what an answer took; the runner has let go of it."""
        if (session := self.loaded.session) is not None:
            assert session.last is not None
            return _usage(job, {**session.last.receipt.as_dict(), "machines": session.machines()})
        assert job.before is not None
        runtime = self.runtime
        runtime.drain()
        if self.loaded.auditor is not None:
            self.loaded.auditor.settle()
        runtime.layers.ledger.collect(closing=True)
        decode, prefill = runtime.stats.decode - job.before[0], runtime.stats.prefill - job.before[1]
        drafts = None if self.loaded.drafting is None else self.loaded.drafting.since(job.drafts_before)
        if drafts is not None:
            decode, prefill = drafts.counts.of_answer(decode, prefill)
        discarded = unused(decode, len(job.tokens), drafts) if job.shared_by == 1 else 0
        runtime.layers.ledger.discard(discarded)
        found = None if self.loaded.auditor is None else self.loaded.auditor.summary()
        routing, profile = runtime.in_force, runtime.profile
        receipt = Receipt.of(decode, prefill, discarded, routing, found, profile=profile, drafts=drafts).as_dict()
        if runtime.history is not None:
            runtime.history.save()
        return _usage(job, receipt)


def _usage(job: Job, receipt: dict[str, Any]) -> Usage:
    assert job.began_at is not None and job.first_at is not None
    return Usage(
        prompt_tokens=len(job.prompt),
        reused_tokens=job.reused,
        tokens=len(job.tokens),
        queued_seconds=job.began_at - job.asked_at,
        first_token_seconds=job.first_at - job.asked_at,
        seconds=time.monotonic() - job.asked_at,
        receipt={**receipt, "shared_by": job.shared_by},
    )
