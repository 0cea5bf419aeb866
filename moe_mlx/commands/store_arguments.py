"""Where prompt caches are kept between runs: arguments that chat and serve share, so that they find each other's."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from moe_mlx.errors import UsageError
from moe_mlx.system.sizes import parse_size

if TYPE_CHECKING:
    from moe_mlx.conversation.prompt_store import PromptStore
    from moe_mlx.conversation.sampling import KVCacheSettings
    from moe_mlx.loading.runtime import Runtime


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
        help="keep prompt caches on disk, in a folder or 'auto'; conversations can be read from them (default: none)",
    )
    group.add_argument("--prompt-store-bytes", type=sized, default=4 * 10**9, metavar="SIZE", help="(default: 4GB)")


def prompt_store_of(
    args: argparse.Namespace, runtime: Runtime, caching: KVCacheSettings, say: Callable[[str], None]
) -> PromptStore | None:
    """Returns the store that was asked for; None where none was."""
    if getattr(args, "prompt_store", None) is None:
        return None
    from moe_mlx.conversation.prompt_store import open_prompt_store

    return open_prompt_store(
        runtime, args.prompt_store, caching, adapter=args.adapter_path, most_bytes=args.prompt_store_bytes, say=say
    )
