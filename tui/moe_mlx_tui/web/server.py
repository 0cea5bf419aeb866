"""`moe-mlx chat --web`: the app in a browser, through textual-serve, one model behind however many tabs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from moe_mlx.errors import MoeMlxError, UsageError


def serve(args: argparse.Namespace) -> int:
    """Serves until Ctrl+C or SIGTERM.

    Raises:
        UsageError: the `web` extra is not installed, or the address cannot be used.
    """
    try:
        from aiohttp import web
        from textual_serve.server import Server
    except ImportError as error:
        raise UsageError(f"--web needs textual-serve ({error.name} is missing): pip install 'moe-mlx[web]'") from error
    if not 0 < args.port < 1 << 16:
        raise UsageError(f"--port {args.port}: give a number from 1 to 65535")
    from moe_mlx_tui.engine.engine import Engine
    from moe_mlx_tui.engine.shared_engine import SharedEngine
    from moe_mlx_tui.web.gate import Gate, is_loopback, new_token
    from moe_mlx_tui.web.tab_options import TabOptions

    token = None if is_loopback(args.host) else new_token()
    gate = Gate(token)

    class GatedServer(Server):
        """textual-serve behind the gate, its page naming the host that the browser asked for."""

        async def _make_app(self) -> web.Application:
            app = await super()._make_app()
            app.middlewares.append(gate.middleware())
            return app

        async def handle_index(self, request: web.Request) -> Any:
            self.public_url = f"http://{request.headers['Host']}"
            return await super().handle_index(request)

        def initialize_logging(self) -> None:
            logging.basicConfig(level=logging.WARNING)

        async def on_startup(self, app: web.Application) -> None:
            where = "localhost" if token is None else args.host
            print(f"moe-mlx is at http://{where}:{args.port}/" + (f"?token={token}" if token else ""), flush=True)
            if token is not None:
                print("Everybody who has this address can use the model; there is no encryption.", flush=True)
            print("Ctrl+C ends it.", flush=True)

    with tempfile.TemporaryDirectory(prefix="moe-mlx-") as folder:
        path = Path(folder) / "engine"
        engine = Engine(args)
        shared = SharedEngine(engine, path)
        engine.listeners.append(shared.wake)
        TabOptions(args.system_prompt, args.ascii, args.theme).hand_over()
        command = shlex.join([sys.executable, "-m", "moe_mlx_tui.web.tab", str(path)])
        server = GatedServer(command, host=args.host, port=args.port, title="moe-mlx")
        asyncio.set_event_loop(asyncio.new_event_loop())
        engine.start()
        shared.start()
        try:
            server.serve()
        except OSError as error:
            where = f"{args.host}:{args.port}"
            raise MoeMlxError(f"cannot serve on {where}: {error.strerror}; try another --port") from error
        finally:
            shared.close()
            engine.close()
    return 0
