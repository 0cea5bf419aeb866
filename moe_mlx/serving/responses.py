"""OpenAI's `/v1/responses`. Nothing is stored: a conversation comes whole with each request."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from moe_mlx.conversation.answer_text import AnswerText, Delta, Text, Thought
from moe_mlx.serving.body import read
from moe_mlx.serving.call import Call
from moe_mlx.serving.job import Ended, Said
from moe_mlx.serving.messages import LEFT_OUT
from moe_mlx.serving.refusal import RefusalError
from moe_mlx.serving.replies import EventStream, Reply, event, whole
from moe_mlx.serving.response_fields import FlatChoice, ResponseFields
from moe_mlx.serving.service import Service, Wish


async def answer(request: Request, service: Service) -> Response:
    """Answers one request."""
    body = await read(request, ResponseFields, service.limits)
    model = await service.model(body.model)
    forced = None
    if isinstance(body.tool_choice, FlatChoice):
        forced = body.tool_choice.name
    elif body.tool_choice == "required":
        forced = ""
    given: dict[str, Any] = {}
    if body.reasoning is not None and body.reasoning.effort is not None:
        given["reasoning_effort"] = body.reasoning.effort
        if body.reasoning.effort == "none":
            given["enable_thinking"] = False
    wish = Wish(
        body.model_copy(update={"n": 1}),
        body.max_output_tokens,
        body.stops,
        schema=body.schema_wanted(),
        forced=forced,
        schema_field="text",
    )
    call, texts = await service.converse(model, wish, body.messages(), body.functions(), given)
    made = Made(body, model.called(body.model), call, texts[0])
    service.note(request, call)
    more = {LEFT_OUT: ", ".join(body.left_out())[:500]} if body.left_out() else {}
    if body.stream:
        stream = EventStream(call, made.frames(), made.failed, service.limits)
        stream.headers.update(more)
        return stream
    await whole(request, call, made.collect)
    return Reply(made.response(), headers=call.account.headers | more)


class Made:
    """One response on its way."""

    def __init__(self, body: ResponseFields, model: str, call: Call, text: AnswerText) -> None:
        self.body, self.model, self.call, self.text = body, model, call, text
        self.id, self.began = f"resp_{uuid.uuid4().hex}", time.time()
        self.output: list[dict[str, Any]] = []
        self.ended: Ended | None = None
        self._number = -1

    def response(self, status: str | None = None) -> dict[str, Any]:
        """Returns the response as it stands."""
        body, ended = self.body, self.ended
        short = ended is not None and ended.reason == "length"
        if status is None:
            status = "incomplete" if short else "completed"
        choice = body.tool_choice or "auto"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.began,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if short else None,
            "instructions": body.instructions,
            "model": self.model,
            "output": self.output,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "truncation": "disabled",
            "tool_choice": choice if isinstance(choice, str) else {"type": "function", "name": choice.name},
            "tools": [
                {
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters,
                    "strict": bool(tool.strict),
                }
                for tool in body.tools or ()
                if tool.type == "function"
            ],
            "usage": None if ended is None else self._usage(ended),
        }

    def _usage(self, ended: Ended) -> dict[str, Any]:
        took = ended.usage
        return {
            "input_tokens": took.prompt_tokens,
            "output_tokens": took.tokens,
            "total_tokens": took.prompt_tokens + took.tokens,
            "input_tokens_details": {"cached_tokens": took.reused_tokens, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
            "moe_mlx": self.call.account.extension,
        }

    def collect(self, index: int, happened: Any) -> None:
        """Takes an event of an answer that is sent whole."""
        self._frames_of(happened)

    def _frames_of(self, happened: Any) -> list[bytes]:
        deltas: list[Delta] = []
        if isinstance(happened, Said):
            deltas = self.text.take(happened.parts)
        elif isinstance(happened, Ended):
            deltas, self.ended = self.text.finish(), happened
        frames = [frame for delta in deltas for frame in self._delta(delta)]
        if isinstance(happened, Ended):
            frames += self._close_item()
        return frames

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number, **fields}, kind)

    async def frames(self) -> AsyncIterator[bytes]:
        """Yields the response's events."""
        started = False
        async for _, happened in self.call.events():
            if not isinstance(happened, Said | Ended):
                continue
            if not started:
                started = True
                for kind in ("response.created", "response.in_progress"):
                    yield self._event(kind, response=self.response("in_progress"))
            for frame in self._frames_of(happened):
                yield frame
        done = self.response()
        yield self._event(f"response.{done['status']}", response=done)

    def _delta(self, delta: Delta) -> list[bytes]:
        if isinstance(delta, Text):
            frames = self._open("message")
            self._part()["text"] += delta.text
            return [*frames, self._piece("response.output_text.delta", delta=delta.text, logprobs=[])]
        if isinstance(delta, Thought):
            frames = self._open("reasoning")
            self._part()["text"] += delta.text
            return [*frames, self._piece("response.reasoning_text.delta", delta=delta.text)]
        frames = self._close_item()
        item = {
            "id": f"fc_{uuid.uuid4().hex}",
            "type": "function_call",
            "status": "in_progress",
            "call_id": delta.id,
            "name": delta.name,
            "arguments": "",
        }
        self.output.append(item)
        place = len(self.output) - 1
        frames.append(self._event("response.output_item.added", output_index=place, item=dict(item)))
        item["arguments"] = delta.arguments
        at = {"output_index": place, "item_id": item["id"]}
        frames.append(self._event("response.function_call_arguments.delta", delta=delta.arguments, **at))
        return [*frames, *self._close_item()]

    def _part(self) -> dict[str, Any]:
        part: dict[str, Any] = self.output[-1]["content"][0]
        return part

    def _piece(self, kind: str, **fields: Any) -> bytes:
        item = self.output[-1]
        return self._event(kind, item_id=item["id"], output_index=len(self.output) - 1, content_index=0, **fields)

    def _open(self, kind: str) -> list[bytes]:
        """Begins a message, or reasoning, unless it is under way."""
        if self.output and self.output[-1]["type"] == kind and self.output[-1]["status"] == "in_progress":
            return []
        frames = self._close_item()
        message = kind == "message"
        item: dict[str, Any] = {
            "id": f"{'msg' if message else 'rs'}_{uuid.uuid4().hex}",
            "type": kind,
            "status": "in_progress",
        }
        item |= {"role": "assistant", "content": []} if message else {"summary": [], "content": []}
        self.output.append(item)
        frames.append(self._event("response.output_item.added", output_index=len(self.output) - 1, item=dict(item)))
        part = (
            {"type": "output_text", "text": "", "annotations": []}
            if message
            else {"type": "reasoning_text", "text": ""}
        )
        item["content"] = [part]
        frames.append(self._piece("response.content_part.added", part=dict(part)))
        return frames

    def _close_item(self) -> list[bytes]:
        if not self.output or self.output[-1]["status"] != "in_progress":
            return []
        item = self.output[-1]
        item["status"] = "completed"
        frames = []
        if item["type"] == "function_call":
            at = {"output_index": len(self.output) - 1, "item_id": item["id"], "name": item["name"]}
            frames.append(self._event("response.function_call_arguments.done", arguments=item["arguments"], **at))
        elif item["type"] == "message":
            frames.append(self._piece("response.output_text.done", text=self._part()["text"], logprobs=[]))
            frames.append(self._piece("response.content_part.done", part=self._part()))
        else:
            frames.append(self._piece("response.reasoning_text.done", text=self._part()["text"]))
            frames.append(self._piece("response.content_part.done", part=self._part()))
        frames.append(self._event("response.output_item.done", output_index=len(self.output) - 1, item=item))
        return frames

    def failed(self, refusal: RefusalError) -> tuple[dict[str, Any], bytes]:
        """Returns an error as a body and as an event."""
        failed = self.response("failed") | {"error": {"code": "server_error", "message": refusal.message}}
        return refusal.openai(), self._event("response.failed", response=failed)
