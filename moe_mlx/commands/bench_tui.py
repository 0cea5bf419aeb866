"""`moe-mlx bench tui`, what the terminal app costs, and `moe-mlx bench soak`, whether its memory stays flat."""

from __future__ import annotations

import argparse

from moe_mlx.commands.session_arguments import add_session_arguments


def add_tui_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx bench tui`."""
    parser.add_argument("--rounds", type=int, default=5, help="answers each way, alternating (default: 5)")
    parser.add_argument("--prompt", default="Tell me a long story.", help="what is asked")
    parser.add_argument("--frames", type=int, default=64, help="frames of the 48 x 128 map (default: 64)")
    parser.add_argument("--only-frames", action="store_true", help="no model: only the bytes a frame")
    add_session_arguments(parser, max_tokens=300)
    parser.set_defaults(routing="exact")  # the same tokens, the same reads, each time


def add_soak_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx bench soak`."""
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument(
        "--growth", type=float, default=0.10, help="footprint growth that fails it, as a share (default: 0.10)"
    )
    add_session_arguments(parser, max_tokens=120)
    parser.set_defaults(temp=0.7)


def run_tui(args: argparse.Namespace) -> int:
    """Prints tokens a second with and without the app, and the bytes of terminal output a frame."""
    from moe_mlx_tui.measuring.overhead import LARGE, SIZE, bytes_a_frame, compare

    for size in (SIZE, LARGE):
        print(bytes_a_frame(args.frames, size))
    if not args.only_frames:
        print(compare(args))
    return 0


def run_soak(args: argparse.Namespace) -> int:
    """Runs the app without a terminal through turns, stops and resizes; 1 if its memory grew."""
    from moe_mlx_tui.measuring.soak import soak

    return soak(args, seconds=args.minutes * 60, growth=args.growth)
