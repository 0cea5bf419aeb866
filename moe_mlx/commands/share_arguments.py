"""Arguments of the verbs that only look at a model and show how its slots would be shared. No MLX here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moe_mlx.planning.slot_share import SHARES
from moe_mlx.system.terminal import to_stderr

if TYPE_CHECKING:
    from moe_mlx.planning.slot_share import Curve
    from moe_mlx.store import ExpertSource


def add_share_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how slots are shared, and by which history."""
    parser.add_argument(
        "--share",
        choices=SHARES,
        default="even",
        help="caps shared evenly among the layers, or by what the history says each needs (default: even)",
    )
    parser.add_argument("--history", metavar="FOLDER", help="where that is kept (default: the user's cache folder)")
    parser.add_argument("--profile", metavar="NAME", help="the history of that profile instead of the model's own")


def curves_of_args(args: argparse.Namespace, source: ExpertSource) -> Sequence[Curve] | None:
    """Returns what slots are to be shared by; see `asked_curves`."""
    if args.share == "even":
        return None
    from moe_mlx.history.file import AUTO, check_history
    from moe_mlx.history.keeper import open_history
    from moe_mlx.history.profiles import check_profile
    from moe_mlx.planning.slot_share import asked_curves

    profile = check_profile(args.profile or None)
    keeper = open_history(check_history(args.history or AUTO), source, to_stderr, profile)
    return asked_curves(args.share, None if keeper is None else keeper.past, source.layers, to_stderr)
