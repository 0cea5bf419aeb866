"""Plays a recording of the app: pause, speed, seek. No model is needed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from moe_mlx.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx replay`."""
    parser.add_argument("file", type=Path, help="what `moe-mlx chat --record FILE` wrote")
    parser.add_argument("--ascii", action="store_true", help="draw the map with plain characters")
    parser.add_argument("--theme", metavar="NAME", help="colour theme")
    parser.add_argument("--svg", type=Path, metavar="OUT", help="write one picture instead of opening the app")
    parser.add_argument(
        "--at", type=float, metavar="SECONDS", help="start here (with --svg: the moment, default the end)"
    )
    parser.add_argument(
        "--size", default="132x40", metavar="WxH", help="columns and rows of the picture (default: 132x40)"
    )
    parser.add_argument(
        "--map", action="store_true", help="with --svg and a narrow size: the map, not the conversation"
    )


def run(args: argparse.Namespace) -> int:
    """Opens the recording on this terminal, or draws one moment of it."""
    from moe_mlx_tui.recording.replay import draw, play

    if args.svg is not None:
        return draw(args.file, args.svg, args.size, at=args.at, plain=args.ascii, theme=args.theme, swapped=args.map)
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise UsageError("a recording plays on a terminal, and this is none: --svg OUT draws one moment of it")
    return play(args.file, at=args.at or 0.0, plain=args.ascii, theme=args.theme)
