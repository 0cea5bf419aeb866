"""The app of one browser tab: `python -m moe_mlx_tui.web.tab SOCKET`, started by the web server for each connection."""

from __future__ import annotations

import sys
from pathlib import Path

from moe_mlx_tui.app import ChatApp
from moe_mlx_tui.engine.snapshot import CLOSED, Snapshot
from moe_mlx_tui.saved.conversation import Conversation
from moe_mlx_tui.web.remote_source import RemoteSource
from moe_mlx_tui.web.tab_options import TabOptions


def main(path: str) -> int:
    """Runs one tab's app."""
    options = TabOptions.of_environment()
    source = RemoteSource(Path(path))
    talk = Conversation(system=options.system or "")
    app = ChatApp(source, conversation=talk, plain=options.ascii, theme_name=options.theme)

    def ended(snapshot: Snapshot) -> None:
        if snapshot.phase == CLOSED and app.is_running:
            app.call_from_thread(app.exit, 1)

    source.listeners.append(ended)
    try:
        return int(app.run() or 0)
    finally:
        source.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
