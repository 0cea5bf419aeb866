"""Serves a model over HTTP: OpenAI's and Anthropic's protocols, with the expert cache behind them.

mlx_lm.server's arguments keep their names: --host, --port, --draft-model, --max-tokens and so on.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from moe_mlx.commands.model_arguments import add_history_arguments, add_machines_arguments, add_model_arguments
from moe_mlx.commands.parser import CommandParser
from moe_mlx.commands.price_arguments import add_price_arguments
from moe_mlx.commands.serve_arguments import add_server_arguments
from moe_mlx.errors import UsageError

#: What the parser does not know is handed to `run` as `args.rest`: arguments may also follow "--".
TAKES_REST = True
NEEDED = ("pydantic", "starlette", "uvicorn", "prometheus_client")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx serve`."""
    parser.allow_abbrev = False
    add_model_arguments(parser, pictures=True)
    add_price_arguments(parser)
    add_history_arguments(parser)
    add_machines_arguments(parser)
    add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serves until told to end."""
    rest = [word for word in args.rest if word != "--"]
    if rest:
        parser = CommandParser(prog="moe-mlx serve", allow_abbrev=False)
        add_server_arguments(parser)
        parser.set_defaults(**{name: value for name, value in vars(args).items() if name != "rest"})
        args = parser.parse_args(rest)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"serving needs {', '.join(missing)}: pip install 'moe-mlx[serve]'")
    from moe_mlx.conversation import opening
    from moe_mlx.serving.serve import serve

    serve(args, opening)
    return 0
