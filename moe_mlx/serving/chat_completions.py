"""OpenAI's `/v1/chat/completions`."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from moe_mlx.conversation.answer_text import AnswerText, Delta, Text, Thought
from moe_mlx.serving import chances
from moe_mlx.serving.body import read
from moe_mlx.serving.call import Call
from moe_mlx.serving.chat_fields import ChatFields, NamedTool
from moe_mlx.serving.job import Ended, Said, TokenChance
from moe_mlx.serving.lineup import ServedModel
from moe_mlx.serving.refusal import RefusalError
from moe_mlx.serving.replies import EventStream, Reply, event, whole
from moe_mlx.serving.service import Service, Wish


async def answer(request: Request, service: Service) -> Response:
    """Answers one request."""
    body = await read(request, ChatFields, service.limits)
    model = await service.model(body.model)
    tools = [] if body.tool_choice == "none" else [tool.plain() for tool in body.tools or ()]
    call, texts = await service.converse(model, _wish(body), [m.plain() for m in body.messages], tools, _template(body))
    completion = ChatCompletion(service, body, model, call, texts)
    service.note(request, call)
    if body.stream:
        return EventStream(call, completion.frames(), completion.failed, service.limits)
    await whole(request, call, completion.collect)
    return Reply(completion.whole(), headers=call.account.headers)


def _wish(body: ChatFields) -> Wish:
    likeliest = None
    if body.logprobs or (body.top_logprobs or -1) >= 0:
        likeliest = max(0, body.top_logprobs or 0)
    forced = None
    if isinstance(body.tool_choice, NamedTool):
        forced = body.tool_choice.function.name
    elif body.tool_choice == "required":
        forced = ""
    return Wish(
        body,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stops=body.stops,
        schema=None if body.response_format is None else body.response_format.schema_wanted(),
        forced=forced,
        likeliest=likeliest,
    )


def _template(body: ChatFields) -> dict[str, Any]:
    given: dict[str, Any] = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        given.setdefault("reasoning_effort", body.reasoning_effort)
        if body.reasoning_effort == "none":
            given.setdefault("enable_thinking", False)
    return given


class ChatCompletion:
    """One chat completion on its way."""

    def __init__(
        self, service: Service, body: ChatFields, model: ServedModel, call: Call, texts: list[AnswerText]
    ) -> None:
        self.tokenizer, self.body, self.call, self.texts = model.tokenizer, body, call, texts
        self.reasons = [""] * len(texts)
        self._chances: list[list[TokenChance]] = [[] for _ in texts]
        self._frame: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model.called(body.model),
            "system_fingerprint": service.fingerprint,
        }

    def collect(self, index: int, happened: Any) -> None:
        """Takes an event of an answer that is sent whole."""
        if isinstance(happened, Said):
            self._heard(index, happened)
        elif isinstance(happened, Ended):
            self.texts[index].finish()
            self.reasons[index] = self._reason(index, happened)

    def _heard(self, index: int, said: Said) -> list[Delta]:
        if said.chance is not None:
            self._chances[index].append(said.chance)
        return self.texts[index].take(said.parts)

    def _reason(self, index: int, ended: Ended) -> str:
        if self.texts[index].calls and ended.reason != "length":
            return "tool_calls"
        return "length" if ended.reason == "length" else "stop"

    def whole(self) -> dict[str, Any]:
        """Returns the completion."""
        choices = []
        for index, text in enumerate(self.texts):
            message: dict[str, Any] = {"role": "assistant", "content": text.text or None, "refusal": None}
            if not text.calls and not text.text:
                message["content"] = ""
            if text.thought:
                message["reasoning"] = message["reasoning_content"] = text.thought
            if text.calls:
                message["tool_calls"] = [_call(call) for call in text.calls]
            logprobs = chances.chat(self.tokenizer, known) if (known := self._chances[index]) else None
            choices.append(
                {"index": index, "message": message, "finish_reason": self.reasons[index], "logprobs": logprobs}
            )
        return {
            **self._frame,
            "object": "chat.completion",
            "choices": choices,
            "usage": self.call.account.openai,
        }

    async def frames(self) -> AsyncIterator[bytes]:
        """Yields the completion's chunks."""
        begun: set[int] = set()
        numbers = [0] * len(self.texts)
        async for index, happened in self.call.events():
            if not isinstance(happened, Said | Ended):
                continue
            if index not in begun:
                begun.add(index)
                yield self._chunk(index, {"role": "assistant", "content": ""})
            text = self.texts[index]
            if isinstance(happened, Said):
                deltas = self._heard(index, happened)
                fresh = [] if happened.chance is None else [happened.chance]
                if fresh and not deltas:
                    yield self._chunk(index, {"content": ""}, fresh)
                for place, delta in enumerate(deltas):
                    yield self._chunk(index, self._delta(delta, numbers, index), fresh if place == 0 else [])
                continue
            for delta in text.finish():
                yield self._chunk(index, self._delta(delta, numbers, index))
            yield self._chunk(index, {}, reason=self._reason(index, happened))
        if self.body.stream_options is not None and self.body.stream_options.include_usage:
            yield event(
                {**self._frame, "object": "chat.completion.chunk", "choices": [], "usage": self.call.account.openai}
            )
        yield event("[DONE]")

    def _delta(self, delta: Delta, numbers: list[int], index: int) -> dict[str, Any]:
        if isinstance(delta, Text):
            return {"content": delta.text}
        if isinstance(delta, Thought):
            return {"reasoning": delta.text, "reasoning_content": delta.text}
        number, numbers[index] = numbers[index], numbers[index] + 1
        return {"tool_calls": [{"index": number, **_call(delta)}]}

    def _chunk(
        self, index: int, delta: dict[str, Any], fresh: list[Any] | None = None, reason: str | None = None
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": reason}
        choice["logprobs"] = chances.chat(self.tokenizer, fresh) if fresh else None
        return event({**self._frame, "object": "chat.completion.chunk", "choices": [choice]})

    @staticmethod
    def failed(refusal: RefusalError) -> tuple[dict[str, Any], bytes]:
        """Returns an error as a body and as an event."""
        return refusal.openai(), event(refusal.openai())


def _call(call: Any) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
