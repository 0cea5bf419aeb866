"""What all endpoints stand on: the models, the defaults, and how a request becomes answers to be made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from moe_mlx.conversation.answer_text import AnswerText
from moe_mlx.conversation.tool_format import call_schema, forceable
from moe_mlx.serving.call import Call
from moe_mlx.serving.drawing_fields import DrawingFields
from moe_mlx.serving.engine import Engine
from moe_mlx.serving.grammar import grammar_of
from moe_mlx.serving.job import Drawing, Job
from moe_mlx.serving.limits import Limits
from moe_mlx.serving.lineup import Lineup, ServedModel
from moe_mlx.serving.prompts import Conversation, Prompt
from moe_mlx.serving.refusal import invalid


@dataclass(frozen=True, slots=True)
class Defaults:
    """How answers are drawn where a request does not say; mlx_lm.server's names and values."""

    max_tokens: int = 512
    temp: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    num_draft_tokens: int | None = None
    template: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request wants beside its prompt, whatever protocol it came by.

    Attributes:
        max_tokens: Longest answer; None for the server's default.
        schema: A JSON schema that the answer keeps to.
        forced: A call has to be made: "" for any tool, else that one; None for no such thing.
        likeliest: Log probabilities of how many tokens beside each drawn one; None for none.
        schema_field: The field that the schema came in, for what is said of it.
    """

    fields: DrawingFields
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None
    forced: str | None = None
    likeliest: int | None = None
    schema_field: str = "response_format"


class Service:
    """What is served.

    Attributes:
        began: Unix time of the start.
    """

    def __init__(
        self,
        engine: Engine,
        lineup: Lineup,
        defaults: Defaults,
        limits: Limits,
        note: Callable[..., None] = lambda **_: None,
    ) -> None:
        self.engine, self.lineup, self.defaults, self.limits, self.note = engine, lineup, defaults, limits, note
        self.began = int(time.time())

    @property
    def loaded_name(self) -> str | None:
        """The name of the model that is loaded; None while none is."""
        opening = self.engine.opening if self.engine.loaded is not None else None
        return next((name for name, model in self.lineup if model.opening is opening), None)

    @property
    def fingerprint(self) -> str:
        """OpenAI's `system_fingerprint`: the versions that an answer depends on."""
        import mlx.core as mx
        from mlx_lm import __version__ as mlx_lm_version

        from moe_mlx.version import __version__

        return f"moe-mlx-{__version__}-mlx-{mx.__version__}-mlx-lm-{mlx_lm_version}"

    async def model(self, name: str | None) -> ServedModel:
        """Returns the model that a client means, ready for prompts.

        Raises:
            RefusalError: there is none of that name (404), or it cannot be opened.
        """
        model = self.lineup.named(name)
        await model.prepare(self.defaults.template)
        return model

    def drawing(self, model: ServedModel, wish: Wish, prompt: int) -> Drawing:
        """Returns how tokens are drawn, with what the server was started with where the request is silent.

        Args:
            model: That is asked.
            wish: Of the request.
            prompt: Tokens of the prompt: an answer is never longer than what is left of the room.

        Raises:
            RefusalError: token ids beyond the vocabulary.
        """
        asked, defaults, room = wish.fields, self.defaults, model.prompts.room
        bias = tuple(sorted((int(key), value) for key, value in (asked.logit_bias or {}).items()))
        if bias and bias[-1][0] >= room.vocabulary:
            raise invalid(
                f"logit_bias has token {bias[-1][0]:,}, the vocabulary ends at {room.vocabulary - 1:,}",
                param="logit_bias",
            )

        def or_else(value: Any, otherwise: Any) -> Any:
            return otherwise if value is None else value

        return Drawing(
            max_tokens=min(or_else(wish.max_tokens, defaults.max_tokens), room.longest - prompt),
            temp=or_else(asked.temperature, defaults.temp),
            top_p=or_else(asked.top_p, defaults.top_p),
            top_k=max(0, or_else(asked.top_k, defaults.top_k)),
            min_p=or_else(asked.min_p, defaults.min_p),
            xtc_probability=asked.xtc_probability,
            xtc_threshold=asked.xtc_threshold,
            repetition_penalty=or_else(asked.repetition_penalty, 0.0),
            repetition_context_size=asked.repetition_context_size,
            presence_penalty=or_else(asked.presence_penalty, 0.0),
            presence_context_size=asked.presence_context_size,
            frequency_penalty=or_else(asked.frequency_penalty, 0.0),
            frequency_context_size=asked.frequency_context_size,
            bias=bias,
            seed=asked.seed,
            draft_tokens=or_else(asked.num_draft_tokens, defaults.num_draft_tokens),
        )

    async def converse(
        self,
        model: ServedModel,
        wish: Wish,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        given: Mapping[str, Any] | None,
    ) -> tuple[Call, list[AnswerText]]:
        """Begins the answers to a conversation.

        Raises:
            RefusalError: it cannot be answered.
        """
        template = model.prompts.arguments(given)
        schema = wish.schema
        if wish.forced is not None:
            if not forceable(model.tokenizer):
                raise invalid("this model's tool calls cannot be forced: use tool_choice auto", param="tool_choice")
            schema = call_schema(tools, wish.forced or None)
        grammar = None
        if schema is not None:
            grammar = grammar_of(schema, "tool_choice" if wish.forced is not None else wish.schema_field)
            template.setdefault("enable_thinking", False)
        forced = wish.forced is not None
        prompt = await model.prompts.chat(Conversation(messages, tools, template, forced))
        if grammar is not None and prompt.state == "reasoning":
            raise invalid(
                "this model thinks before it answers, which a schema has no place for: switch thinking off",
                param=wish.schema_field,
            )
        call = self.begin(model, wish, [prompt], tools=bool(tools), grammar=grammar)
        return call, [AnswerText(model.tokenizer, tools, forced) for _ in call.jobs]

    def begin(
        self,
        model: ServedModel,
        wish: Wish,
        prompts: Sequence[Prompt],
        *,
        tools: bool = False,
        grammar: str | None = None,
        raw: bool = False,
    ) -> Call:
        """Puts answers in the queue, `n` for each prompt; each of them has a seed of its own.

        Raises:
            RefusalError: the queue is full, or a value is beyond the model.
        """
        jobs: list[Job] = []
        for prompt in prompts:
            drawing = self.drawing(model, wish, len(prompt.tokens))
            for number in range(wish.fields.n):
                own = drawing
                if drawing.seed is not None and number:
                    own = replace(drawing, seed=(drawing.seed + number) % (1 << 64))
                job = Job(prompt.tokens, own, lambda _: None, prompt.boundaries, wish.stops, prompt.state)
                job.tools, job.likeliest, job.grammar, job.raw = tools, wish.likeliest, grammar, raw
                job.opening = model.opening
                jobs.append(job)
        call = Call(self.engine, jobs)
        call.submit()
        return call
