"""Measures what the terminal app costs: tokens a second with and without it, and bytes of terminal output a frame."""

from __future__ import annotations

import argparse

from moe_mlx.commands.model_arguments import add_model_arguments, add_sampling_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx overhead_tui`."""
    parser.add_argument("--rounds", type=int, default=5, help="answers each way, alternating (default: 5)")
    parser.add_argument("--prompt", default="Tell me a long story.", help="what is asked")
    parser.add_argument("--frames", type=int, default=64, help="frames of the 48 x 128 map (default: 64)")
    parser.add_argument("--only-frames", action="store_true", help="no model: only the bytes a frame")
    add_model_arguments(parser)
    add_sampling_arguments(parser, max_tokens=300)
    parser.set_defaults(routing="exact")  # the same tokens, the same reads, each time


def run(args: argparse.Namespace) -> int:
    """Prints both figures."""
    from moe_mlx_tui.overhead import bytes_a_frame, compare

    print(bytes_a_frame(args.frames))
    if not args.only_frames:
        print(compare(args))
    return 0
