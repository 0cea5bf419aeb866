"""`moe-mlx chat`: what the command line calls."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from moe_mlx.errors import MoeMlxError
from moe_mlx_tui.chat_app import ChatApp
from moe_mlx_tui.saved.conversation import Conversation
from moe_mlx_tui.saved.paths import data_folder
from moe_mlx_tui.saved.sessions import Sessions

__all__ = ["ChatApp", "run_app"]


def run_app(args: argparse.Namespace) -> int:
    """Opens the app on this terminal, or serves it to a browser.

    Raises:
        MoeMlxError: a session or recording that cannot be opened; nothing was started.
        Exception: what kept the model from being loaded; the app has shown it, and was left.
    """
    if getattr(args, "web", False):
        from moe_mlx_tui.web.server import serve

        return serve(args)
    from moe_mlx_tui.attached.source import AttachedSource
    from moe_mlx_tui.engine.engine import Engine
    from moe_mlx_tui.recording.recording import Recorder

    talk = Conversation(system=args.system_prompt or "")
    if args.resume:
        talk = Sessions(data_folder() / "sessions").open(args.resume)
    home = getattr(args, "home", False)
    if home:
        args.model = None
    engine: Engine | AttachedSource = (
        AttachedSource(args.attach, os.environ.get("MOE_MLX_API_KEY")) if args.attach else Engine(args)
    )
    recorder = Recorder(Path(args.record)) if args.record else None
    if recorder is not None:
        engine.listeners.append(recorder.add)
    app = ChatApp(engine, conversation=talk, plain=args.ascii, theme_name=args.theme)
    app.at_home = home
    try:
        code = app.run()
    finally:
        engine.close()
        if recorder is not None:
            recorder.close()
    if isinstance(engine, Engine) and engine.failure is not None:
        raise engine.failure
    if recorder is not None and recorder.failure:
        raise MoeMlxError(recorder.failure)
    return int(code or app.return_code or 0)
