"""How answers travel: whole, or as server-sent events; whoever leaves, or takes nothing for too long, ends them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from moe_mlx.serving.call import Call
from moe_mlx.serving.limits import Limits
from moe_mlx.serving.refusal import RefusalError

#: Shown by no client, seen by every connection: a stream is alive.
ALIVE = b": alive\n\n"


class Reply(JSONResponse):
    """JSON in UTF-8, without numbers that are none."""

    def render(self, content: Any) -> bytes:
        """Returns the bytes."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def event(data: Any, name: str | None = None) -> bytes:
    """Returns one server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


@asynccontextmanager
async def ended_by_leaving(call: Call, receive: Receive) -> AsyncIterator[None]:
    """Ends the answers of a call when its client leaves, and when the block is left."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        call.leave()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        call.cancel()


async def whole(request: Request, call: Call, collect: Callable[[int, Any], None]) -> None:
    """Waits for all answers of a call; every event goes to `collect` with the number of its answer.

    Raises:
        RefusalError: one of them failed, or the client left.
    """
    async with ended_by_leaving(call, request.receive):
        async for index, happened in call.events():
            collect(index, happened)


class EventStream(Response):
    """Events as they come.

    The answer's head is sent with the first of them, so that what fails before it is an error with its own code;
    while nothing comes for `quiet_seconds`, a sign of life is sent.
    """

    def __init__(
        self,
        call: Call,
        frames: AsyncIterator[bytes],
        failed: Callable[[RefusalError], tuple[Mapping[str, Any], bytes]],
        limits: Limits,
        alive: bytes = ALIVE,
    ) -> None:
        """Takes the frames.

        Args:
            call: What they are made from.
            frames: The events.
            failed: Returns a refusal as the body of an answer, and as an event of a stream that has begun.
            limits: For quiet, and for clients that do not take what they are sent.
            alive: The sign of life.
        """
        self.call, self.frames, self.failed, self.limits, self.alive = call, frames, failed, limits, alive
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self.headers["content-type"] = "text/event-stream; charset=utf-8"
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends everything."""
        async with ended_by_leaving(self.call, receive):
            try:
                await self._send_all(scope, receive, send)
            except TimeoutError:
                self.call.leave()

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def put(frame: bytes, *, more: bool = True) -> None:
            nonlocal started
            async with asyncio.timeout(self.limits.send_seconds):
                if not started:
                    started = True
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": frame, "more_body": more})

        following = asyncio.ensure_future(anext(self.frames, None))
        try:
            while True:
                done, _ = await asyncio.wait({following}, timeout=self.limits.quiet_seconds)
                if not done:
                    await put(self.alive)
                    continue
                frame = following.result()
                if frame is None:
                    break
                await put(frame)
                following = asyncio.ensure_future(anext(self.frames, None))
        except RefusalError as refusal:
            body, frame = self.failed(refusal)
            if not started:
                await refused(refusal, body)(scope, receive, send)
                return
            await put(frame)
        finally:
            following.cancel()
            with suppress(BaseException):
                await following
        await put(b"", more=False)


def refused(refusal: RefusalError, body: Mapping[str, Any]) -> Response:
    """Returns a refusal as an answer."""
    return Reply(body, status_code=refusal.status, headers=refusal.headers)
