"""The app of one browser tab: `python -m moe_mlx_tui.web.tab`, started by the web server for each connection."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress

from moe_mlx_tui.web.limits import TAB_MEMORY
from moe_mlx_tui.web.watch import Watch, die_with


def main() -> int:
    """Runs one tab's app."""
    watch = Watch(lambda code: app.call_from_thread(app.exit, code))
    watch.on_signals()  # before the imports below, which start threads of their own
    from pathlib import Path

    from moe_mlx_tui.engine.snapshot import CLOSED, Snapshot
    from moe_mlx_tui.saved.conversation import Conversation
    from moe_mlx_tui.web.remote_source import RemoteSource
    from moe_mlx_tui.web.tab_app import TabApp
    from moe_mlx_tui.web.tab_options import TabOptions

    options = TabOptions.from_environment(os.environ)
    die_with(options.server)
    with suppress(OSError, ValueError):  # a lower limit stands already
        resource.setrlimit(resource.RLIMIT_DATA, (TAB_MEMORY, TAB_MEMORY))
    source = RemoteSource(Path(options.engine))
    app = TabApp(
        source,
        kept=Path(options.kept),
        hang_up=lambda: watch.end(1),
        fresh=Conversation(system=options.system),
        home=Path(options.home),
        plain=options.ascii,
        theme_name=options.theme,
        models=options.models,
    )

    def ended(snapshot: Snapshot) -> None:
        if snapshot.phase == CLOSED:
            watch.end(1)

    source.listeners.append(ended)
    try:
        return int(app.run() or 0)
    finally:
        app.keep()
        source.close()


if __name__ == "__main__":
    sys.exit(main())
