"""The loop that drafts and verifies: every token is the model's own, drawn as mlx-lm's `generate_step` draws it.

mlx-lm's `speculative_generate_step` drafts a fixed number each round, shows logits processors less than `generate_step`
does, and draws for rows that it throws away. Here the gate may turn drafts off between rounds, processors see the same
tokens, and a row is drawn for only when the one before it was accepted: the sampler is asked for the same tokens in the
same order as without drafts, so that a seed gives the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.generate import generation_stream, maybe_quantize_kv_cache

from moe_mlx.drafting.drafting import Drafting
from moe_mlx.loading.cutting import cut_back

#: What a step yields, as mlx-lm's speculative loop does: a token, its logprobs `[V]`, whether it was drafted.
Step = tuple[int, mx.array, bool]


class DraftedSteps:
    """One answer's steps. Closed after any token, they leave a cache that ends with it, as mlx-lm's loop does."""

    def __init__(
        self,
        drafting: Drafting,
        model: nn.Module,
        context: Sequence[int],
        *,
        prompt_cache: list[Any],
        sampler: Callable[[mx.array], mx.array],
        max_tokens: int,
        logits_processors: list[Callable[[mx.array, mx.array], mx.array]] | None = None,
        prefill_step_size: int = 2048,
        kv_bits: int | None = None,
        kv_group_size: int = 64,
        quantized_kv_start: int = 5000,
        count: int | None = None,
    ) -> None:
        """Prepares an answer; the arguments are those of mlx-lm's loops, where they have them.

        Args:
            drafting: What drafts.
            model: The model that decides.
            context: Tokens that the cache holds.
            prompt_cache: Filled in place.
            sampler: From logprobs `[1, V]` to a token `[1]`.
            max_tokens: -1 for no limit.
            logits_processors: As for mlx-lm.
            prefill_step_size: Prompt tokens at a time.
            kv_bits: Of a quantised cache.
            kv_group_size: There.
            quantized_kv_start: Tokens from which on it is quantised.
            count: Tokens to draft at a time; the drafting's own where None.

        Raises:
            UsageError: the model is not routed exactly.
        """
        if drafting.runtime.layers.lossy:
            routing = drafting.runtime.routing
            drafting.check_routing({"routing": routing.routing, "light": routing.light})
        self._drafting, self._drafter, self._model = drafting, drafting.drafter, model
        self._count = drafting.count if count is None else count
        self._cache, self._sampler, self._processors = prompt_cache, sampler, logits_processors
        self._left = math.inf if max_tokens < 0 else max_tokens
        self._chunk = prefill_step_size
        self._quantize = partial(
            maybe_quantize_kv_cache,
            quantized_kv_start=quantized_kv_start,
            kv_group_size=kv_group_size,
            kv_bits=kv_bits,
        )
        self._whole_until = math.inf if kv_bits is None else quantized_kv_start
        self._fed = len(context)
        self._tokens: mx.array | None = None  # what processors see
        self._made = self._ahead = self._before = 0
        self._y = self._logprobs = mx.array(0)  # the token to come: made, and neither yielded nor fed
        drafting.drafter.begin(context)

    def run(self, prompt: mx.array, progress: Callable[[int, int], None]) -> Generator[Step, None, None]:
        """Reads the rest of the prompt and makes tokens.

        Args:
            prompt: `[L]`, at least one token, behind the context.
            progress: Told tokens read and in all, as mlx-lm tells them.

        Raises:
            ExpertReadError: an expert could not be read.
        """
        gate = self._drafting.gate
        self._read(prompt, progress)
        self._settle()
        progress(prompt.size, prompt.size)
        yielded = 0
        try:
            while self._left > 0:
                count = self._how_many() if gate.drafting else 0
                steps = self._round(count) if count else self._plain()
                self._made, self._ahead = self._made + len(steps), len(steps)
                if self._made >= gate.left:
                    self._settle()
                for step in steps:
                    self._ahead, self._left, yielded = self._ahead - 1, self._left - 1, yielded + 1
                    yield step
                    if yielded % 256 == 0:
                        mx.clear_cache()
        except GeneratorExit:
            self._leave()
            raise
        self._leave()

    def _leave(self) -> None:
        """Ends the cache with the latest token that was yielded, and tells the gate what it has not heard."""
        cut_back(self._cache, self._ahead)
        self._drafting.runtime.drain()
        self._tell()

    def _read(self, prompt: mx.array, progress: Callable[[int, int], None]) -> None:
        """Does with a prompt what `generate_step` does, chunk by chunk."""
        total, done = prompt.size, 0
        progress(0, total)
        while total - done > 1:
            chunk = prompt[done : done + min(self._chunk, total - done - 1)]
            with mx.stream(generation_stream):
                _, hidden = self._forward(chunk)
                mx.eval([layer.state for layer in self._cache])
            self._see(chunk)
            self._drafter.took(chunk.tolist(), hidden)
            done += chunk.size
            progress(done, total)
            mx.clear_cache()
        self._y = prompt[done:]
        self._next()

    def _plain(self) -> list[Step]:
        """Makes one token as `generate_step` does: the next is queued before this one is waited for."""
        return [self._next()]

    def _next(self) -> Step:
        y, logprobs = self._y, self._logprobs
        with mx.stream(generation_stream):
            logits, hidden = self._forward(y)
            self._y, self._logprobs = self._draw(y, logits[:, -1, :])
        mx.async_eval(self._y, self._logprobs)
        token = int(y.item())
        self._drafter.took([token], hidden)
        return token, logprobs, False

    def _round(self, count: int) -> list[Step]:
        """Drafts after the token to come, verifies all in one call and keeps what the model makes too."""
        token, drafting = int(self._y.item()), self._drafting
        before = drafting.runtime.stats.prefill
        with mx.stream(generation_stream):
            fed = [token, *self._drafter.draft(token, count)]
            rows = mx.array(fed, dtype=self._y.dtype)
            logits, hidden = self._forward(rows)
            steps: list[Step] = [(token, self._logprobs, False)]
            for row in range(count + 1):
                self._y, self._logprobs = self._draw(rows[row : row + 1], logits[:, row, :])
                mx.eval(self._y, self._logprobs)
                if row == count or (made := int(self._y.item())) != fed[row + 1]:
                    break
                steps.append((made, self._logprobs, True))
        drafting.runtime.check_token(ahead=0)
        kept = len(steps)
        cut_back(self._cache, len(fed) - kept)
        self._fed -= len(fed) - kept
        self._drafter.took(fed[:kept], None if hidden is None else hidden[:, :kept])
        drafting.verified(count, kept - 1, drafting.runtime.stats.prefill - before)
        return steps

    def _how_many(self) -> int:
        """Tokens to draft now. A cache is quantised between two steps of one row, as it is without drafts."""
        room = self._whole_until - 2 - self._fed if self._fed < self._whole_until else math.inf
        return int(max(0, min(self._count, self._left - 1, room)))

    def _forward(self, tokens: mx.array) -> tuple[mx.array, mx.array | None]:
        """Feeds tokens `[L]`; returns logits `[1, L, V]` and, where a drafter reads them, hidden states `[1, L, D]`."""
        self._fed += tokens.size
        logits, hidden = self._drafting.call(self._model, tokens[None], self._cache)
        self._quantize(self._cache)
        return logits, hidden

    def _see(self, tokens: mx.array) -> None:
        if self._processors:
            self._tokens = tokens if self._tokens is None else mx.concatenate([self._tokens, tokens])

    def _draw(self, fed: mx.array, logits: mx.array) -> tuple[mx.array, mx.array]:
        """Draws the token after `fed` from logits `[1, V]`; returns it `[1]` and its logprobs `[V]`."""
        self._see(fed)
        for processor in self._processors or ():
            logits = processor(self._tokens, logits)
        logprobs = logits - mx.logsumexp(logits, keepdims=True)
        return self._sampler(logprobs), logprobs.squeeze(0)

    def _settle(self) -> None:
        """Waits for the step under way and tells the gate what the tokens since the last time took."""
        mx.eval(self._y)
        self._drafting.runtime.check_token(ahead=0)
        self._tell()

    def _tell(self) -> None:
        now = self._drafting.bytes_read()
        if self._made:
            self._drafting.gate.took(self._made, now - self._before)
        self._made, self._before = 0, now
