"""Where prompt caches are kept between runs: arguments that chat and serve share, so that they find each other's."""

from __future__ import annotations

import argparse

from moe_mlx.conversation.opening import store_place
from moe_mlx.errors import UsageError
from moe_mlx.system.sizes import parse_size


def sized(text: str) -> int:
    """Reads a size, as argparse's `type`."""
    try:
        return parse_size(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_store_arguments(group: argparse._ActionsContainer) -> None:
    """Adds them."""
    group.add_argument(
        "--prompt-store",
        metavar="FOLDER",
        type=store_place,
        help="keep prompt caches on disk, in a folder or 'auto'; conversations can be read from them (default: off)",
    )
    group.add_argument("--prompt-store-bytes", type=sized, default=4 * 10**9, metavar="SIZE", help="(default: 4GB)")
