"""The web application: our page, textual-serve's terminal, one process a tab."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from textual_serve.server import Server

from moe_mlx_tui.web.gate import SOCKET, Gate
from moe_mlx_tui.web.limits import COLUMNS, GRACE, MESSAGE, ROWS, within
from moe_mlx_tui.web.seats import NAME, FullError, Seats
from moe_mlx_tui.web.tab_options import TabOptions
from moe_mlx_tui.web.tab_process import TabProcess

PAGE = Path(__file__).parent / "page"
#: Close codes of our own, beside a line that the page shows.
FULL, ELSEWHERE = 4503, 4409
#: Nothing comes from outside, and no other site may frame the page. xterm writes its colours into style elements.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; img-src 'self' data:; "
    "connect-src 'self' ws://{host} wss://{host}; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Site(Server):
    """textual-serve behind the gate, every tab bounded and with a folder of its own.

    Args:
        gate: Who may come in.
        seats: The open tabs.
        options: What every tab is told; `kept`, and `home` unless sessions are shared, are its own.
    """

    def __init__(self, gate: Gate, seats: Seats, options: TabOptions) -> None:
        super().__init__("", title="moe-mlx")
        self.gate, self.seats, self.options = gate, seats, options
        self._open: set[web.WebSocketResponse] = set()

    async def _make_app(self) -> web.Application:
        app = web.Application(middlewares=[self.gate.middleware()])
        app.add_routes(
            [
                web.get("/", self.handle_index),
                web.get(SOCKET + "{name}", self.handle_websocket),
                web.get("/download/{key}", self.handle_download),
                web.static("/static", self.statics_path),
                web.static("/page", PAGE),
            ]
        )
        app.on_response_prepare.append(self._headers)
        app.on_shutdown.append(self.on_shutdown)
        return app

    @staticmethod
    async def _headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Content-Security-Policy"] = _POLICY.format(host=request.headers.get("Host", ""))
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        if request.path in ("/", "/download") or request.path.startswith("/download/"):
            response.headers["Cache-Control"] = "no-store"
        if (where := response.headers.get("Content-Disposition")) is not None:  # never a page of ours
            response.headers["Content-Disposition"] = where.replace("inline", "attachment", 1)

    async def handle_index(self, request: web.Request) -> web.StreamResponse:
        """Serves the page, the same for everybody."""
        return web.FileResponse(PAGE / "index.html")

    async def on_shutdown(self, app: web.Application) -> None:
        """Lets every tab go; their handlers end the processes."""
        await asyncio.gather(
            *(tab.close(code=WSCloseCode.GOING_AWAY, message=b"the server has ended") for tab in list(self._open)),
            return_exceptions=True,
        )

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Runs one tab for as long as its connection lives."""
        name = request.match_info["name"]
        if not NAME.fullmatch(name):
            raise web.HTTPBadRequest(text="no such tab")
        width = within(request.query.get("width"), COLUMNS, 80)
        height = within(request.query.get("height"), ROWS, 24)
        tab = web.WebSocketResponse(heartbeat=15, timeout=GRACE, max_msg_size=MESSAGE)
        await tab.prepare(request)

        async def leave() -> None:
            await tab.close(code=ELSEWHERE, message=b"this conversation was opened in another tab")

        self._open.add(tab)
        try:
            async with self.seats.seat(name, leave) as own:
                options = replace(self.options, kept=str(own), home=self.options.home or str(own))
                process = TabProcess(
                    options,
                    write_bytes=tab.send_bytes,
                    write_str=tab.send_str,
                    close=tab.close,
                    download_manager=self.download_manager,
                )
                try:
                    await process.start(width, height)
                    await self._process_messages(tab, process)
                finally:
                    await asyncio.shield(process.stop())
        except FullError as error:
            await tab.close(code=FULL, message=str(error).encode())
        finally:
            self._open.discard(tab)
        return tab

    async def _process_messages(self, websocket: web.WebSocketResponse, app_service: TabProcess) -> None:
        async for message in websocket:
            if message.type != WSMsgType.TEXT or not await _take(message.data, websocket, app_service):
                await websocket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"not understood")

    async def run(self, sockets: list[socket.socket], ready: Callable[[], None]) -> int:
        """Serves until a signal comes and returns its number; `ready` is called once the server answers."""
        logging.basicConfig(level=logging.WARNING)
        runner = web.AppRunner(await self._make_app(), access_log=None, shutdown_timeout=3 * GRACE)
        await runner.setup()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, _tell, ended, number)
        try:
            for one in sockets:
                await web.SockSite(runner, one).start()
            ready()
            return await ended
        finally:
            await runner.cleanup()


def _tell(ended: asyncio.Future[int], number: int) -> None:
    if not ended.done():
        ended.set_result(number)


async def _take(data: str, websocket: web.WebSocketResponse, tab: TabProcess) -> bool:
    """Does what a message says; False if it is none of the page's."""
    try:
        kind, *rest = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        return False
    told: Any = rest[0] if rest else None
    if kind == "stdin" and isinstance(told, str):
        await tab.send_bytes(told.encode("utf-8", "replace"))
    elif kind == "resize" and isinstance(told, dict):
        await tab.set_terminal_size(within(told.get("width"), COLUMNS, 80), within(told.get("height"), ROWS, 24))
    elif kind == "touch" and isinstance(told, str):
        await tab.send_meta({"type": "touch", "name": told[:40]})
    elif kind == "ping" and isinstance(told, str):
        await websocket.send_json(["pong", told[:40]])
    elif kind in ("blur", "focus"):
        await (tab.focus() if kind == "focus" else tab.blur())
    else:
        return False
    return True
