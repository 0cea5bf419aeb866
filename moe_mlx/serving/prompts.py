"""From a request to token ids: chat template, tools, bounds; in a thread of its own, so that MLX's never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, TemplateError, meta
from mlx_lm.tokenizer_utils import TokenizerWrapper

from moe_mlx.conversation.channels import NORMAL, TOOL
from moe_mlx.conversation.text_reader import opening_state
from moe_mlx.conversation.tool_format import MARKERS, write_tools, written
from moe_mlx.loading.tokenizer import apply_template
from moe_mlx.serving.limits import Room
from moe_mlx.serving.refusal import invalid, too_long
from moe_mlx.vlm.pictures import PICTURE, Picture, pictures_of_urls
from moe_mlx.vlm.processing import PictureReader

#: Arguments of `apply_chat_template` that no client may give, and variables that are the server's.
_OWN = {
    "chat_template",
    "tokenize",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "padding",
    "truncation",
    "max_length",
    "tokenizer_kwargs",
    "messages",
    "conversation",
    "conversations",
    "processor_kwargs",
    "load_audio_from_video",
}
#: Taken whatever the template looks like; a template that does not know them ignores them.
_KNOWN = {"enable_thinking", "thinking", "reasoning_effort", "thinking_budget"}
MAX_TEXT_ARGUMENT = 1000


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as chat templates take it.

    Attributes:
        messages: `role` and `content`, and calls and results.
        tools: Functions that may be called.
        template: Arguments for the chat template.
        forced: Whether the answer is to be a call: its first marker goes into the prompt.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    template: dict[str, Any] = field(default_factory=dict)
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids; what an answer begins in; places where the cache is worth keeping."""

    tokens: list[int]
    state: str = NORMAL
    boundaries: tuple[int, ...] = ()


class Prompts:
    """Makes prompts for one model."""

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        room: Room,
        *,
        template: Mapping[str, Any],
        boundaries: bool,
        pictures: PictureReader | None = None,
    ) -> None:
        """Looks at the tokenizer.

        Args:
            tokenizer: Of the model.
            room: Tokens there is room for.
            template: Arguments for the chat template that whoever started the server gave.
            boundaries: Whether places to keep caches at are wanted.
            pictures: What reads pictures; None where the model is shown none.
        """
        self._pictures = pictures
        self.tokenizer, self.room, self.template, self._wanted = tokenizer, room, dict(template), boundaries
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="moe-mlx-prompts")
        self._longest_token = max(map(len, tokenizer.get_vocab()), default=1)
        self._variables = _variables(tokenizer.chat_template)

    async def chat(self, conversation: Conversation, *, answered: bool = True) -> Prompt:
        """Returns a conversation as a prompt.

        Args:
            conversation: What to write.
            answered: Whether there has to be room for an answer.

        Raises:
            RefusalError: too long, or with a token that the model does not know.
            MoeMlxError: the template does not take it.
        """
        self._refuse_huge(
            sum(map(_length, map(_without_pictures, conversation.messages))) + sum(map(_length, conversation.tools))
        )
        prompt = await asyncio.get_running_loop().run_in_executor(self._pool, self._chat, conversation)
        self.known(prompt.tokens, "messages")
        if answered:
            self.check(len(prompt.tokens))
        return prompt

    async def text(self, text: str) -> Prompt:
        """Returns a text as a prompt; raises as `chat` does."""
        self._refuse_huge(len(text))
        tokens = await asyncio.get_running_loop().run_in_executor(self._pool, self.tokenizer.encode, text)
        return self.ids(list(tokens))

    def ids(self, tokens: list[int]) -> Prompt:
        """Returns token ids as a prompt.

        Raises:
            RefusalError: none at all, ids beyond the vocabulary, or too many.
        """
        if not tokens:
            raise invalid("the prompt is empty: say something", param="prompt")
        self.known(tokens, "prompt")
        self.check(len(tokens))
        return Prompt(tokens)

    def known(self, tokens: list[int], param: str) -> None:
        """Refuses ids that the model has no embedding for; some tokenizers have added tokens beyond it.

        Raises:
            RefusalError: there are such.
        """
        if 0 < self.room.vocabulary <= max(tokens, default=0):
            raise invalid(f"{param} has token ids beyond the vocabulary of {self.room.vocabulary:,}", param=param)

    def check(self, tokens: int) -> None:
        """Refuses a prompt that leaves no room for an answer.

        Raises:
            RefusalError: it does not.
        """
        if tokens >= self.room.longest:
            raise too_long(tokens, self.room.longest - 1, self.room.why())

    def arguments(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Returns what a client may tell the chat template: plain values of variables that it has.

        Raises:
            RefusalError: something else.
        """
        given = given or {}
        for name, value in given.items():
            if name in _OWN or (name not in _KNOWN and name not in self._variables):
                raise invalid(f"chat_template_kwargs.{name[:80]}: this model's template has no such variable to be set")
            if isinstance(value, str) and len(value) > MAX_TEXT_ARGUMENT:
                raise invalid(f"chat_template_kwargs.{name}: too long")
        return {**self.template, **given}

    def close(self) -> None:
        """Ends the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _refuse_huge(self, characters: int) -> None:
        """Refuses without reading it what cannot fit however it is read: no token has more characters than that."""
        least = characters // self._longest_token
        if least >= self.room.longest:
            raise too_long(least, self.room.longest - 1, f"{self.room.why()} (counted at least)")

    def _chat(self, conversation: Conversation) -> Prompt:
        tokenizer = self.tokenizer
        if any(isinstance(message.get("content"), list) for message in conversation.messages):
            return self._shown(conversation)
        messages, tools = conversation.messages, list(conversation.tools)
        calls = any(message["role"] == "tool" or message.get("tool_calls") for message in messages)
        if (tools or calls) and written(tokenizer):
            messages, tools = write_tools(messages, tools), []
        if not tokenizer.has_chat_template:
            tokens = list(tokenizer.encode("\n".join(str(message["content"]) for message in messages)))
            return Prompt(tokens, NORMAL)
        options: dict[str, Any] = {**conversation.template}
        if tools:
            options["tools"] = tools
        continued = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
        ending = {"add_generation_prompt": not continued, "continue_final_message": continued}
        tokens = apply_template(tokenizer, messages, **ending, **options)
        state = opening_state(tokenizer, tokens)
        if conversation.forced:
            start = MARKERS[0] if written(tokenizer) else str(tokenizer.tool_call_start)
            return Prompt(tokens + list(tokenizer.encode(start, add_special_tokens=False)), TOOL)
        places = self._boundaries(tokens, messages, options) if self._wanted else ()
        return Prompt(tokens, state, places)

    def _shown(self, conversation: Conversation) -> Prompt:
        """Writes a conversation with pictures, by the model's processor."""
        if self._pictures is None:
            raise invalid("this model is shown no pictures: it sees none, or the server runs without --pictures")
        if conversation.tools or conversation.forced or conversation.messages[-1]["role"] == "assistant":
            raise invalid("a conversation with pictures takes no tools, and no answer that has begun")
        parts = [part for message in conversation.messages for part in _parts(message)]
        pictures = iter(pictures_of_urls([part["image_url"] for part in parts if part["type"] == "image_url"]))
        messages = [
            {**message, "content": [_shown_part(part, pictures) for part in message["content"]]}
            if isinstance(message.get("content"), list)
            else message
            for message in conversation.messages
        ]
        tokens = self._pictures.prompt(messages, **conversation.template)
        return Prompt(tokens, opening_state(self.tokenizer, list(tokens)))

    def _boundaries(
        self, tokens: list[int], messages: Sequence[dict[str, Any]], options: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """Where the system messages end, and where the tail begins that only this answer has."""
        places = []
        system = [message for message in messages if message["role"] == "system"]
        if system and len(system) < len(messages):
            head = apply_template(
                self.tokenizer, [*system, {"role": "user", "content": ""}], add_generation_prompt=False, **options
            )
            places.append(next((i for i, (a, b) in enumerate(zip(head, tokens, strict=False)) if a != b), 0))
        tail = len(tokens) - 1
        if self.tokenizer.has_thinking:
            found = self.tokenizer.rfind_think_start(tokens, start=max(0, len(tokens) - 11))
            tail = found if found >= 0 else tail
        return tuple(sorted({place for place in [*places, tail] if 0 < place < len(tokens)}))


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _without_pictures(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if not (parts := _parts(message)):
        return message
    return {**message, "content": [part for part in parts if part["type"] == "text"]}


def _shown_part(part: Mapping[str, Any], pictures: Iterator[Picture]) -> dict[str, Any]:
    if part["type"] != "image_url":
        return dict(part)
    return {"type": PICTURE, PICTURE: next(pictures).in_detail(part.get("detail", "auto"))}


def _length(thing: Any) -> int:
    """Characters of all the texts in a message or tool."""
    if isinstance(thing, str):
        return len(thing)
    if isinstance(thing, Mapping):
        return sum(map(_length, thing.values()))
    return sum(map(_length, thing)) if isinstance(thing, list) else 0


def _variables(template: Any) -> set[str]:
    if not isinstance(template, str):
        return set()
    try:
        syntax = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True).parse(template)
        return set(meta.find_undeclared_variables(syntax))
    except TemplateError:
        return set()
