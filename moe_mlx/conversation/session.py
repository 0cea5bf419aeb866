"""A conversation with one model: prompt cache kept between turns, every answer with its counts. No user interface.

Generation is `mlx_lm.stream_generate`; this module decides what of the prompt is still in the prompt cache, tells what
was prefilled, accounts for the step that mlx-lm runs ahead, and throws the prompt cache away after an error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm import stream_generate
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_logits_processors, make_sampler
from mlx_lm.tokenizer_utils import TokenizerWrapper

from moe_mlx.conversation.account import Account
from moe_mlx.conversation.answer import Answer, Piece
from moe_mlx.conversation.audit import Auditor
from moe_mlx.conversation.heard import Heard
from moe_mlx.conversation.keeper import Keeper
from moe_mlx.conversation.message import Message, apart
from moe_mlx.conversation.not_finite import is_number, not_finite
from moe_mlx.conversation.prompt_store import PromptStore
from moe_mlx.conversation.sampling import KVCacheSettings, Sampling
from moe_mlx.conversation.tool_format import write_tools, written
from moe_mlx.drafting.drafting import Drafting
from moe_mlx.drafting.steps import DraftedSteps
from moe_mlx.errors import UsageError
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.loading.cutting import cut_back
from moe_mlx.loading.runtime import Runtime
from moe_mlx.loading.tokenizer import apply_template
from moe_mlx.machines.agreement import Agreement
from moe_mlx.planning.kv_cache import first_value
from moe_mlx.system.names import with_names
from moe_mlx.system.terminal import sound
from moe_mlx.vlm.calling import built_by_mlx_vlm
from moe_mlx.vlm.processing import PicturePrompt, pictures_of
from moe_mlx.vlm.reading import read_pictures

__all__ = ["Answer", "KVCacheSettings", "Message", "Piece", "Sampling", "Session"]

_PICTURED = "a conversation with pictures is read again as a whole"
_REFILLED = "this model's prompt cache cannot be trimmed, so the whole prompt is read again"


class _CancelledError(Exception):
    """Raised inside mlx-lm's prefill to leave it at a chunk's end."""


@dataclass
class Session:
    """A conversation. Not thread-safe: one thread owns it and MLX.

    Attributes:
        model: A model from `moe_mlx.load`.
        tokenizer: Its tokenizer.
        sampling: Used for the next answer; may be replaced between answers.
        caching: The KV cache's settings.
        template: Extra arguments for the chat template.
        raw: Whether prompts go in as they are, without the chat template.
        last: The latest answer.
        between_tokens: Called after each token while no step is being built; may resize the expert cache.
        auditor: Computes every N-th token with exact routing too; the answer does not change. Or a `Keeper`, which
            holds a price.
        store: Prompt caches on disk: what an earlier run has read of a prompt is not read again.
        drafting: What guesses tokens that are then verified together; the answer does not change.
        agreement: Where other processes run parts of the model: what all agree on at each token of this answer.
    """

    model: nn.Module
    tokenizer: TokenizerWrapper
    sampling: Sampling = field(default_factory=Sampling)
    caching: KVCacheSettings = field(default_factory=KVCacheSettings)
    template: dict[str, Any] = field(default_factory=dict)
    raw: bool = False
    last: Answer | None = None
    between_tokens: Callable[[], None] | None = None
    auditor: Auditor | Keeper | None = None
    store: PromptStore | None = None
    drafting: Drafting | None = None
    agreement: Agreement | None = None
    _held: list[int] = field(default_factory=list)
    _prompt_cache: list[Any] | None = None
    _warmed: int = 0
    _pictured: bool = False

    def __post_init__(self) -> None:
        self.runtime.kv.check_bits(self.caching.kv_bits, self.caching.kv_group_size)
        self._check_sampling()

    def _check_sampling(self) -> None:
        words = first_value(self.runtime.config, "vocab_size")
        if isinstance(words, int) and self.sampling.top_k >= words:
            raise UsageError(
                f"top_k is {self.sampling.top_k}: this model has {words:,} tokens, give less, or 0 for all"
            )

    @property
    def runtime(self) -> Runtime:
        """The expert cache behind the model."""
        return runtime_of(self.model)

    @property
    def kv_nbytes(self) -> int:
        """Bytes of the prompt cache as it stands."""
        return sum(int(getattr(layer, "nbytes", 0)) for layer in self._prompt_cache or ())

    @property
    def held_tokens(self) -> int:
        """Tokens that the prompt cache holds."""
        return len(self._held)

    @property
    def plain(self) -> bool:
        """Whether prompts and answers are text and nothing else: the session is raw, or there is no template."""
        return self.raw or not self.tokenizer.has_chat_template

    def encode(self, messages: Sequence[Message], *, prefill_response: str | None = None) -> list[int]:
        """Returns the prompt's tokens, through the chat template unless the session is raw or there is none.

        With pictures it is a `PicturePrompt`, written and processed by mlx-vlm.

        Args:
            messages: The conversation; a content may be a list of parts, text and pictures. An answer comes as
                `Answer.message` has it; one without `reasoning_content` is taken as the text that a model gave, and
                told apart here.
            prefill_response: What the answer begins with.

        Raises:
            UsageError: the template refuses this conversation, or pictures cannot be shown to this model.
            StoreCorruptError: it is no template.
        """
        if pictures_of(messages):
            return self._with_pictures(messages, prefill_response)
        if self.plain:
            text = "\n".join(str(message["content"]) for message in messages) + (prefill_response or "")
            return list(self.tokenizer.encode(sound(text)))
        shown = [apart(self.tokenizer, message) for message in messages]
        shown = [
            {**message, "content": sound(message["content"])} if isinstance(message["content"], str) else message
            for message in shown
        ]
        if prefill_response is not None:
            shown.append({"role": "assistant", "content": sound(prefill_response)})
        return self._through_template(shown, continued=prefill_response is not None)

    def _with_pictures(self, messages: Sequence[Message], prefill_response: str | None) -> list[int]:
        if self.runtime.pictures is None:
            raise UsageError(
                "pictures cannot be shown to this model as it is loaded: `moe-mlx generate --image FILE` loads it for "
                "them, `moe-mlx chat` and `serve` do with --pictures"
            )
        if self.plain or prefill_response is not None:
            raise UsageError(
                "pictures go through the model's chat template: leave --ignore-chat-template out, and what "
                "the answer begins with"
            )
        return self.runtime.pictures.prompt(messages, **self.template)

    def _through_template(self, messages: list[Message], *, continued: bool) -> list[int]:
        calls = any(message.get("tool_calls") for message in messages)
        ending = {"add_generation_prompt": not continued, "continue_final_message": continued}
        if calls and written(self.tokenizer):
            messages, calls = write_tools(messages, ()), False
        try:
            return apply_template(self.tokenizer, messages, **ending, **self.template)
        except UsageError:
            if not calls:
                raise
        # A template may take no call that nothing answered, or none beside reasoning: then it is text.
        return apply_template(self.tokenizer, write_tools(messages, ()), **ending, **self.template)

    def forget(self) -> None:
        """Throws the prompt cache away; the next answer prefills everything."""
        self._throw_away()

    def _throw_away(self) -> None:
        self._prompt_cache, self._held = None, []

    def machines(self) -> list[dict[str, Any]]:
        """Returns what each machine says of the latest answer, by rank; nothing where there is one only."""
        return []

    def close(self) -> None:
        """Ends the conversation and closes the model."""
        self.runtime.close()

    def keep_prompt(self) -> bool:
        """Writes the conversation's prompt cache to the store, if there is one; returns whether it is there."""
        if self.store is None or self._prompt_cache is None or not self._held:
            return False
        self.runtime.drain()
        return self.store.keep(self._held, self._prompt_cache)

    def _reuse(self, prompt: list[int]) -> tuple[int, str]:
        """Makes the prompt cache hold a prefix of `prompt`; returns its length, and why nothing could be kept."""
        if isinstance(prompt, PicturePrompt) or self._pictured:
            refilled = _PICTURED if self._pictured else ""
            self._begin_anew()
            self._pictured = isinstance(prompt, PicturePrompt)
            return 0, refilled
        shared = 0
        for kept, wanted in zip(self._held, prompt, strict=False):
            if kept != wanted:
                break
            shared += 1
        shared = min(shared, len(prompt) - 1)  # mlx-lm needs one token to start from
        if 2 * shared < len(self._held):  # another conversation; this one may be gone on with
            self.keep_prompt()
        if self.store is not None and (found := self.store.find(prompt, better_than=shared)) is not None:
            self._prompt_cache, shared = found
            self._held = prompt[:shared]
        excess = len(self._held) - shared
        if self._prompt_cache is not None and shared and excess:
            if cut_back(self._prompt_cache, excess):
                self._held = self._held[:shared]
            else:
                self._begin_anew()
                return 0, _REFILLED
        if self._prompt_cache is None or not shared:
            self._begin_anew()
            return 0, _REFILLED if self.store is not None and self.store.uncut else ""
        return shared, ""

    def _begin_anew(self) -> None:
        self._prompt_cache, self._held = make_prompt_cache(self.model, self.caching.max_kv_size), []

    def answer(
        self,
        prompt: list[int],
        *,
        stop: threading.Event | None = None,
        on_prefill: Callable[[int, int], None] | None = None,
        logits_processors: list[Callable[[mx.array, mx.array], mx.array]] | None = None,
        sampler: Callable[[mx.array], mx.array] | None = None,
    ) -> Generator[Piece, None, Answer]:
        """Generates one answer.

        Args:
            prompt: Token ids of the whole conversation so far.
            stop: Set by another thread to stop at the next token (or prompt chunk).
            on_prefill: Called with prompt tokens done and in all; tokens found in the prompt cache count as done.
            logits_processors: As for mlx_lm, after the session's own.
            sampler: Draws tokens from log probabilities `[1, V]` in place of the session's sampling.

        Yields:
            Pieces of text with their tokens.

        Returns:
            The answer with its counts, also in `last`.

        Raises:
            UsageError: an empty prompt, or a `top_k` beyond the vocabulary.
            NotFiniteError: the model's numbers are none, and where first.
            ExpertReadError: an expert could not be read; the prompt cache is thrown away, the session stays usable.
        """
        if not prompt:
            raise UsageError("the prompt is empty: say something")
        self._check_sampling()
        started = time.perf_counter()
        runtime = self.runtime
        if self.sampling.seed is not None:
            mx.random.seed(self.sampling.seed)
        reused, refilled = self._reuse(prompt)
        heard = Heard(self.tokenizer, prompt, raw=self.plain)
        account = Account(runtime, started, len(prompt), reused, refilled, heard, self.drafting)

        def progress(done: int, total: int) -> None:
            account.fed = done
            if on_prefill is not None:
                on_prefill(reused + done, reused + total)
            if done < total and self._stops_in_prompt(stop):
                raise _CancelledError

        stream = self._read_and_stream(prompt, reused, progress, logits_processors, sampler)
        audit = ExitStack()
        if self.auditor is not None:
            self.auditor.reset()
            audit.enter_context(self.auditor)
        try:
            for response in stream:
                runtime.check_token()
                if self.agreement is not None:
                    self.agreement.take()
                if not is_number(response.logprobs, response.token):
                    runtime.drain()
                    raise not_finite(runtime, len(account.tokens) + 1)
                yield account.add(response)
                if self._stops(stop):
                    break
                if self.between_tokens is not None:
                    self.between_tokens()
            self._held = prompt + account.tokens
            if self.auditor is not None:
                self.auditor.settle()
        except _CancelledError:
            self._held = prompt[: reused + account.fed]
        except GeneratorExit:
            self._held = prompt + account.tokens
            raise
        except BaseException:
            self._throw_away()
            raise
        finally:
            stream.close()
            audit.close()
            if (ahead := runtime.end_turn()) is not None:  # the step that runs ahead failed, and wrote to the cache
                self._throw_away()
                if self.agreement is not None:  # other ranks wait for that step
                    raise ahead
            found = None if self.auditor is None else self.auditor.summary()
            warmed, self._warmed = max(0, runtime.warmed - self._warmed), runtime.warmed
            self.last = account.close(found, warmed)
            if runtime.history is not None:
                runtime.history.save()
        return self.last

    def _stops_in_prompt(self, stop: threading.Event | None) -> bool:
        if self.agreement is not None:
            return self.agreement.prompt_stops()
        return stop is not None and stop.is_set()

    def _stops(self, stop: threading.Event | None) -> bool:
        if self.agreement is not None:
            return self.agreement.stops
        return stop is not None and stop.is_set()

    def _read_and_stream(
        self,
        prompt: list[int],
        reused: int,
        progress: Callable[[int, int], None],
        extra: list[Any] | None,
        sampler: Callable[[mx.array], mx.array] | None,
    ) -> Generator[Any, None, None]:
        """Reads pictures, if there are any, and leaves the rest to mlx-lm."""
        if built_by_mlx_vlm(self.model):
            self.model.note_pictures(False)
        if not isinstance(prompt, PicturePrompt):
            yield from self._stream(prompt[reused:], progress, extra, sampler, prompt[:reused])
            return
        assert self._prompt_cache is not None
        read_pictures(self.model, prompt, self._prompt_cache, self.caching.prefill_step_size, progress)
        done = len(prompt) - 1
        yield from self._stream(prompt[done:], lambda now, total: progress(done + now, done + total), extra, sampler)

    def _stream(
        self,
        prompt: list[int],
        progress: Callable[[int, int], None],
        extra: list[Any] | None,
        sampler: Callable[[mx.array], mx.array] | None,
        context: Sequence[int] = (),
    ) -> Generator[Any, None, None]:
        s = self.sampling
        sampler = sampler or make_sampler(
            s.temp,
            s.top_p,
            s.min_p,
            s.min_tokens_to_keep,
            top_k=s.top_k,
            xtc_probability=s.xtc_probability,
            xtc_threshold=s.xtc_threshold,
            xtc_special_tokens=[*self.tokenizer.encode("\n"), *self.tokenizer.eos_token_ids],
        )
        if self.agreement is not None:
            sampler = self.agreement.sampler(sampler)
        processors = make_logits_processors(repetition_penalty=s.repetition_penalty) + list(extra or [])
        stream: Generator[Any, None, None] = self._generate(progress, context)(
            self.model,
            self.tokenizer,
            prompt,
            max_tokens=s.max_tokens,
            sampler=sampler,
            logits_processors=processors or None,
            prompt_cache=self._prompt_cache,
            prefill_step_size=self.caching.prefill_step_size,
            kv_bits=self.caching.kv_bits,
            kv_group_size=self.caching.kv_group_size,
            quantized_kv_start=self.caching.quantized_kv_start,
            prompt_progress_callback=progress,
        )
        return stream

    def _generate(self, progress: Callable[[int, int], None], context: Sequence[int]) -> Callable[..., Any]:
        """Returns mlx-lm's `stream_generate`; where tokens are drafted, with our steps in place of its own."""
        if self.drafting is None:
            return stream_generate
        drafting = self.drafting

        def steps(prompt: mx.array, model: nn.Module, _: Any, stream: Any, **how: Any) -> Generator[Any, None, None]:
            return DraftedSteps(drafting, model, context, **how).run(prompt, progress)

        drafted = with_names(stream_generate, {"speculative_generate_step": steps})
        return partial(drafted, draft_model=drafting)
