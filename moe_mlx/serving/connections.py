"""uvicorn with limits: heads that arrive slowly, connections without number, an end that does not wait for ever."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from moe_mlx.errors import MoeMlxError
from moe_mlx.serving.engine import Engine
from moe_mlx.serving.limits import Limits
from moe_mlx.serving.refusal import RefusalError

log = logging.getLogger("moe_mlx.serve")

#: Bytes of a request's head.
HEAD_BYTES = 64 * 1024
#: Seconds beyond `shutdown_seconds` for the last events to be taken.
LAST_WORDS = 2.0


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens; before a model is loaded for it.

    Raises:
        MoeMlxError: the address is taken, or is none.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MoeMlxError(f"cannot listen on {host}, port {port}: {reason}. Name another --host or --port.") from error


def protocol_with(limits: Limits) -> type[H11Protocol]:
    """Returns uvicorn's protocol with our limits."""

    class BoundedProtocol(H11Protocol):
        """Closes a connection whose head does not arrive in time, and those beyond the number that may be open."""

        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
                return
            self._expect_head()

        def _expect_head(self) -> None:
            if self._late is None:
                self._late = self.loop.call_later(limits.head_seconds, self.transport.abort)

        def data_received(self, data: bytes) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self._expect_head()
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._head_is_here()

        def _head_is_here(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_is_here()
            super().connection_lost(exc)

    return BoundedProtocol


class Server(uvicorn.Server):
    """uvicorn's server; told to end, it gives answers under way some seconds and then ends them with an error."""

    def __init__(self, config: uvicorn.Config, engine: Engine, limits: Limits) -> None:
        super().__init__(config)
        self.engine, self.limits = engine, limits

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends within `shutdown_seconds`."""
        refusal = RefusalError(503, "the server is ending", code="shutting_down")
        self.engine.refuse(refusal)
        log.info("ending: %d answers under way, %d waiting", self.engine.running, self.engine.waiting)
        handle = asyncio.get_running_loop().call_later(self.limits.shutdown_seconds, self.engine.end_all, refusal)
        try:
            await super().shutdown(sockets)
        finally:
            handle.cancel()
            # Here, not later: uvicorn raises the signal again, which ends the process.
            await asyncio.to_thread(self.engine.stop)


def server_for(app: Any, engine: Engine, limits: Limits) -> Server:
    """Returns the server of an application."""
    config = uvicorn.Config(
        app,
        http=protocol_with(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=max(1, round(limits.shutdown_seconds + LAST_WORDS)),
    )
    return Server(config, engine, limits)
