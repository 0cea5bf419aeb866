"""Replay a trace of `moe-mlx eval --trace` at any cap, policy and eviction, and Belady's optimum, without the model.

With no cap, policy, parameter or eviction given the recorded setting is replayed; with one given, the others take their
defaults. Exact routing, and the policy the trace was recorded with, give the runtime's own counts. Any other policy is
an approximation: its choices would have changed the scores that follow.

--evict also takes what others published: s3-fifo, mix (recency and frequency), and lfu:H (the aged LFU with a half-life
of H tokens); and pin:N, where the N experts of a layer that the trace itself uses most never give way.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from moe_mlx.commands.grid_arguments import add_grid_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx simulate`."""
    parser.add_argument("trace", type=Path, metavar="TRACE", help="a file of `moe-mlx eval --trace`")
    parser.add_argument("--model", help="refuse the trace unless it is of this model")
    add_grid_arguments(parser)
    parser.add_argument(
        "--share-by", type=Path, metavar="TRACE", help="add each cap shared by the layers' needs in another trace"
    )
    parser.add_argument("--belady", action="store_true", help="add the offline optimum at each cap")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw swaps against misses as .svg or .png (needs the extra `plot`)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs `moe-mlx simulate`."""
    from moe_mlx.evaluation.simulation import simulate

    return simulate(args)
