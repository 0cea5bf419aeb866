"""`moe-mlx chat --web`: the app in a browser, through textual-serve, one model behind however many tabs."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from moe_mlx.errors import UsageError


def serve(args: argparse.Namespace) -> int:
    """Serves until Ctrl+C or SIGTERM; returns 128 + the signal's number, as a shell would say it.

    Raises:
        UsageError: the `web` extra is not installed, or an option makes no sense.
        MoeMlxError: the address cannot be used; nothing was started.
    """
    try:
        from moe_mlx_tui.web.site import Site
    except ImportError as error:
        raise UsageError(f"--web needs textual-serve ({error.name} is missing): pip install 'moe-mlx[web]'") from error
    if not 0 < args.port < 1 << 16:
        raise UsageError(f"--port {args.port}: give a number from 1 to 65535")
    if args.tabs < 1:
        raise UsageError(f"--tabs {args.tabs}: give 1 or more")
    from moe_mlx.system.addresses import is_loopback
    from moe_mlx_tui.engine.engine import Engine
    from moe_mlx_tui.engine.shared_engine import SharedEngine
    from moe_mlx_tui.saved.paths import data_folder
    from moe_mlx_tui.web.addresses import listen
    from moe_mlx_tui.web.gate import COOKIE, Gate, new_token
    from moe_mlx_tui.web.seats import Seats
    from moe_mlx_tui.web.tab_options import TabOptions

    sockets = listen(args.host, args.port)
    token = new_token()
    gate = Gate(token, here=is_loopback(args.host), cookie=f"{COOKIE}_{args.port}")
    with tempfile.TemporaryDirectory(prefix="moe-mlx-") as folder:
        path = Path(folder) / "engine"
        engine = Engine(args)
        may_load = gate.here or args.any_model
        shared = SharedEngine(engine, path, may_load=may_load)
        engine.listeners.append(shared.wake)
        home = str(data_folder()) if args.share_sessions else ""
        options = TabOptions(
            engine=str(path),
            home=home,
            kept="",
            server=os.getpid(),
            system=args.system_prompt or "",
            ascii=args.ascii,
            theme=args.theme,
            models=may_load,
        )
        site = Site(gate, Seats(Path(folder) / "tabs", args.tabs), options)
        engine.start()
        shared.start()
        try:
            number = asyncio.run(site.run(sockets, lambda: _announce(args.host, args.port, token)))
        finally:
            shared.close()
            engine.close()
    return 128 + number


def _announce(host: str, port: int, token: str) -> None:
    """Prints where the app is, with a code for a camera where other devices are served."""
    from moe_mlx.system.addresses import is_loopback
    from moe_mlx_tui.web.addresses import address, draw_code, reachable

    first, *others = (address(name, port, token) for name in reachable(host))
    print(f"moe-mlx is at {first}", flush=True)
    for other in others:
        print(f"           or {other}", flush=True)
    if not is_loopback(host):
        if sys.stdout.isatty() and not draw_code(first, sys.stdout):
            print("(for a QR code here: pip install 'moe-mlx[web]')", file=sys.stderr)
        print("Everybody who has this address can use the model; there is no encryption.", flush=True)
    print("Ctrl+C ends it.", flush=True)
