"""Anthropic's `/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from moe_mlx.conversation.answer_text import AnswerText, Delta, Text, Thought
from moe_mlx.serving.body import read
from moe_mlx.serving.call import Call
from moe_mlx.serving.job import Began, Ended, Said
from moe_mlx.serving.message_fields import CountFields, MessageFields, parsed
from moe_mlx.serving.prompts import Conversation
from moe_mlx.serving.refusal import RefusalError
from moe_mlx.serving.replies import EventStream, Reply, event, whole
from moe_mlx.serving.service import Service, Wish

PING = event({"type": "ping"}, "ping")
#: What a block that has just begun holds.
_EMPTY: dict[str, dict[str, Any]] = {
    "tool_use": {"input": {}},
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
}
#: Header that says what of a request was left out.
LEFT_OUT = "x-moe-mlx-left-out"


async def count(request: Request, service: Service) -> Response:
    """Counts the tokens of a prompt."""
    body = await read(request, CountFields, service.limits)
    model = await service.model(body.model)
    template = model.prompts.arguments(body.template())
    conversation = Conversation(body.conversation(), body.functions(), template)
    prompt = await model.prompts.chat(conversation, answered=False)
    return Reply({"input_tokens": len(prompt.tokens)})


async def answer(request: Request, service: Service) -> Response:
    """Answers one request."""
    body = await read(request, MessageFields, service.limits)
    model = await service.model(body.model)
    forced = None
    if body.tool_choice is not None and body.tool_choice.type in ("any", "tool"):
        forced = body.tool_choice.name or ""
    wish = Wish(body.drawing(), body.max_tokens, tuple(body.stop_sequences or ()), forced=forced)
    call, texts = await service.converse(model, wish, body.conversation(), body.functions(), body.template())
    message = Message(call, texts[0], model.called(body.model))
    service.note(request, call)
    more = {LEFT_OUT: ", ".join(body.left_out())[:500]} if body.left_out() else {}
    if body.stream:
        stream = EventStream(call, message.frames(), message.failed, service.limits, PING)
        stream.headers.update(more)
        return stream
    await whole(request, call, message.collect)
    return Reply(message.whole(), headers=call.account.headers | more)


class Message:
    """One message on its way."""

    def __init__(self, call: Call, text: AnswerText, model: str) -> None:
        self.call, self.text, self.model = call, text, model
        self.id = f"msg_{uuid.uuid4().hex}"
        self.blocks: list[dict[str, Any]] = []
        self.ended: Ended | None = None
        self._began = Began(0, 0)

    def _note(self, delta: Delta) -> dict[str, Any] | None:
        """Adds a piece to the blocks; returns the block that it began, if it began one."""
        if isinstance(delta, Text | Thought):
            kind = "text" if isinstance(delta, Text) else "thinking"
            if self.blocks and self.blocks[-1]["type"] == kind:
                self.blocks[-1][kind] += delta.text
                return None
            block: dict[str, Any] = {"type": kind, kind: delta.text}
            if kind == "thinking":
                block["signature"] = ""
        else:
            identity = delta.id if delta.id.startswith("toolu_") else f"toolu_{delta.id}"
            block = {"type": "tool_use", "id": identity, "name": delta.name, "input": parsed(delta.arguments)}
        self.blocks.append(block)
        return block

    def collect(self, index: int, happened: Any) -> None:
        """Takes an event of an answer that is sent whole."""
        deltas: list[Delta] = []
        if isinstance(happened, Said):
            deltas = self.text.take(happened.parts)
        elif isinstance(happened, Ended):
            deltas, self.ended = self.text.finish(), happened
        for delta in deltas:
            self._note(delta)

    def _frame(self) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.model}

    def _stop(self) -> dict[str, Any]:
        assert self.ended is not None
        reasons = {"stop": "end_turn", "length": "max_tokens", "stop_sequence": "stop_sequence"}
        reason = reasons[self.ended.reason]
        if self.text.calls and reason != "max_tokens":
            reason = "tool_use"
        return {"stop_reason": reason, "stop_sequence": self.ended.stop_sequence}

    def _usage(self, *, prompt: int, reused: int, tokens: int) -> dict[str, Any]:
        return {
            "input_tokens": prompt - reused,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": reused,
            "output_tokens": tokens,
        }

    def _taken(self) -> dict[str, Any]:
        assert self.ended is not None
        took = self.ended.usage
        counts = self._usage(prompt=took.prompt_tokens, reused=took.reused_tokens, tokens=took.tokens)
        return {**counts, "moe_mlx": self.call.account.extension}

    def whole(self) -> dict[str, Any]:
        """Returns the message."""
        return {**self._frame(), "content": self.blocks, **self._stop(), "usage": self._taken()}

    async def frames(self) -> AsyncIterator[bytes]:
        """Yields the message's events."""
        started = False
        async for _, happened in self.call.events():
            if isinstance(happened, Began):
                self._began = happened
            if not isinstance(happened, Said | Ended):
                continue
            if not started:
                started = True
                counts = self._usage(prompt=self._began.prompt_tokens, reused=self._began.reused_tokens, tokens=0)
                empty: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": counts}
                yield event({"type": "message_start", "message": {**self._frame(), **empty}}, "message_start")
            deltas = self.text.take(happened.parts) if isinstance(happened, Said) else self.text.finish()
            for delta in deltas:
                for frame in self._delta(delta):
                    yield frame
            if isinstance(happened, Ended):
                self.ended = happened
        if self.blocks:
            yield self._end_of_block()
        yield event({"type": "message_delta", "delta": self._stop(), "usage": self._taken()}, "message_delta")
        yield event({"type": "message_stop"}, "message_stop")

    def _end_of_block(self) -> bytes:
        return event({"type": "content_block_stop", "index": len(self.blocks) - 1}, "content_block_stop")

    def _delta(self, delta: Delta) -> list[bytes]:
        known = len(self.blocks)
        block = self._note(delta)
        out: list[bytes] = []
        if block is not None:
            if known:
                out.append(event({"type": "content_block_stop", "index": known - 1}, "content_block_stop"))
            empty: dict[str, Any] = {
                "tool_use": {"input": {}},
                "text": {"text": ""},
                "thinking": {"thinking": "", "signature": ""},
            }
            begun = {**block, **empty[block["type"]]}
            out.append(
                event({"type": "content_block_start", "index": known, "content_block": begun}, "content_block_start")
            )
        if isinstance(delta, Text):
            piece = {"type": "text_delta", "text": delta.text}
        elif isinstance(delta, Thought):
            piece = {"type": "thinking_delta", "thinking": delta.text}
        else:
            piece = {"type": "input_json_delta", "partial_json": delta.arguments}
        out.append(
            event({"type": "content_block_delta", "index": len(self.blocks) - 1, "delta": piece}, "content_block_delta")
        )
        return out

    @staticmethod
    def failed(refusal: RefusalError) -> tuple[dict[str, Any], bytes]:
        """Returns an error as a body and as an event."""
        return refusal.anthropic(), event(refusal.anthropic(), "error")
