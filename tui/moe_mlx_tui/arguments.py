"""Arguments of `moe-mlx chat` that only the app needs. Imports neither Textual nor MLX."""

from __future__ import annotations

import argparse

LATEST = "latest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the app takes on top of the model, sampling and routing arguments."""
    app = parser.add_argument_group("app")
    app.add_argument(
        "--resume", nargs="?", const=LATEST, metavar="SESSION", help="go on with a saved session (default: the latest)"
    )
    app.add_argument(
        "--attach",
        metavar="URL",
        help="show a running `moe-mlx serve`, its map and gauges, and talk to it; its key, "
        "where it has one, in $MOE_MLX_API_KEY",
    )
    app.add_argument("--home", action="store_true", help="begin with the list of models, as `moe-mlx` alone does")
    app.add_argument("--record", metavar="FILE", help="write everything the app shows to FILE, for `moe-mlx replay`")
    app.add_argument("--ascii", action="store_true", help="draw the map with plain characters")
    app.add_argument("--theme", metavar="NAME", help="colour theme (the palette, Ctrl+P, lists them)")
    web = parser.add_argument_group("browser")
    web.add_argument("--web", action="store_true", help="serve the app to a browser instead (needs moe-mlx[web])")
    web.add_argument("--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1, this machine only)")
    web.add_argument("--port", type=int, default=8421, help="port to serve on (default: 8421)")
    web.add_argument("--tabs", type=int, default=8, metavar="N", help="browser tabs at once (default: 8)")
    web.add_argument(
        "--any-model", action="store_true", help="browsers beyond this machine may choose, fetch and convert models too"
    )
    web.add_argument(
        "--share-sessions", action="store_true", help="show your own saved sessions in every tab, and save there"
    )
