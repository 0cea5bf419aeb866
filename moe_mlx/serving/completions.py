"""OpenAI's `/v1/completions`: text goes on, no chat template; several prompts at once, text or token ids."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from moe_mlx.serving import chances
from moe_mlx.serving.body import read
from moe_mlx.serving.call import Call
from moe_mlx.serving.completion_fields import CompletionFields
from moe_mlx.serving.job import Ended, Said, TokenChance, Usage
from moe_mlx.serving.lineup import ServedModel
from moe_mlx.serving.refusal import RefusalError, invalid
from moe_mlx.serving.replies import EventStream, Reply, event, whole
from moe_mlx.serving.service import Service, Wish


async def answer(request: Request, service: Service) -> Response:
    """Answers one request."""
    body = await read(request, CompletionFields, service.limits)
    model = await service.model(body.model)
    if body.echo:
        raise invalid("echo is not done here: the prompt is not sent back", param="echo")
    prompts = [
        await model.prompts.text(prompt) if isinstance(prompt, str) else model.prompts.ids(prompt)
        for prompt in body.prompts
    ]
    likeliest = None if body.logprobs is None or body.logprobs is False else int(body.logprobs)
    call = service.begin(model, Wish(body, body.max_tokens, body.stops, likeliest=likeliest), prompts, raw=True)
    completion = Completion(service, body, model, call)
    service.note(request, call)
    if body.stream:
        return EventStream(call, completion.frames(), completion.failed, service.limits)
    await whole(request, call, completion.collect)
    return Reply(completion.whole(), headers=call.account.headers)


class Completion:
    """One completion on its way."""

    def __init__(self, service: Service, body: CompletionFields, model: ServedModel, call: Call) -> None:
        self.tokenizer, self.body, self.call = model.tokenizer, body, call
        self.texts = [""] * len(call.jobs)
        self.chances: list[list[TokenChance]] = [[] for _ in call.jobs]
        self.reasons = [""] * len(call.jobs)
        self.taken: dict[int, Usage] = {}
        self._frame: dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.called(body.model),
            "system_fingerprint": service.fingerprint,
        }

    def collect(self, index: int, happened: Any) -> None:
        """Takes an event."""
        if isinstance(happened, Said):
            self.texts[index] += _text(happened)
            if happened.chance is not None:
                self.chances[index].append(happened.chance)
        elif isinstance(happened, Ended):
            self.taken[index] = happened.usage
            self.reasons[index] = "length" if happened.reason == "length" else "stop"

    def whole(self) -> dict[str, Any]:
        """Returns the completion."""
        choices = [
            {"index": index, "text": text, "finish_reason": self.reasons[index], "logprobs": self._logprobs(index)}
            for index, text in enumerate(self.texts)
        ]
        return {**self._frame, "choices": choices, "usage": self._usage()}

    def _logprobs(self, index: int, fresh: list[TokenChance] | None = None) -> dict[str, Any] | None:
        shown = self.chances[index] if fresh is None else fresh
        return chances.completion(self.tokenizer, shown) if shown else None

    def _usage(self) -> dict[str, Any]:
        """Sums over all prompts; OpenAI counts a prompt once whatever `n` is."""
        every = [self.taken[index] for index in sorted(self.taken)]
        prompts = sum(one.prompt_tokens for one in every[:: self.body.n])
        tokens = sum(one.tokens for one in every)
        return {
            **self.call.account.openai,
            "prompt_tokens": prompts,
            "completion_tokens": tokens,
            "total_tokens": prompts + tokens,
            "prompt_tokens_details": {"cached_tokens": sum(one.reused_tokens for one in every[:: self.body.n])},
        }

    async def frames(self) -> AsyncIterator[bytes]:
        """Yields the completion's chunks."""
        async for index, happened in self.call.events():
            self.collect(index, happened)
            if isinstance(happened, Said):
                fresh = [] if happened.chance is None else [happened.chance]
                if (text := _text(happened)) or fresh:
                    yield self._chunk(index, text, None, fresh)
            elif isinstance(happened, Ended):
                yield self._chunk(index, "", self.reasons[index])
        if self.body.stream_options is not None and self.body.stream_options.include_usage:
            yield event({**self._frame, "choices": [], "usage": self._usage()})
        yield event("[DONE]")

    def _chunk(self, index: int, text: str, reason: str | None, fresh: list[TokenChance] | None = None) -> bytes:
        logprobs = self._logprobs(index, fresh) if fresh else None
        choice = {"index": index, "text": text, "finish_reason": reason, "logprobs": logprobs}
        return event({**self._frame, "choices": [choice]})

    @staticmethod
    def failed(refusal: RefusalError) -> tuple[dict[str, Any], bytes]:
        """Returns an error as a body and as an event."""
        return refusal.openai(), event(refusal.openai())


def _text(said: Said) -> str:
    """A completion is text, whatever a chat would make of it."""
    return "".join(text for _, text in said.parts)
