"""Soaks the terminal app: turns, stops, resizes of window and cap, for minutes; fails unless memory stays flat.

Runs the real app without a terminal. Prints a line a turn and the footprint at the first third and at the end.
"""

from __future__ import annotations

import argparse

from moe_mlx.commands.model_arguments import add_model_arguments, add_sampling_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx soak_tui`."""
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument(
        "--growth", type=float, default=0.10, help="footprint growth that fails it, as a share (default: 0.10)"
    )
    add_model_arguments(parser)
    add_sampling_arguments(parser, max_tokens=120)
    parser.set_defaults(temp=0.7)


def run(args: argparse.Namespace) -> int:
    """Runs the soak; 1 if memory grew."""
    from moe_mlx_tui.soak import soak

    return soak(args, seconds=args.minutes * 60, growth=args.growth)
