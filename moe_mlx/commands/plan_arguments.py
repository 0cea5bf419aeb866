"""Arguments of the verbs that plan: which machine, how much of its memory. No MLX here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from moe_mlx.errors import UsageError

if TYPE_CHECKING:
    from moe_mlx.planning.prediction import Rates

#: Less is a unit left out.
_LEAST_MEMORY = 10**6


def add_machine_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds the memory and the chip to plan for."""
    parser.add_argument(
        "--memory", metavar="SIZE", help="of a Mac (16GB); macOS lets the GPU have 2/3 of it, 3/4 above 32 GB"
    )
    parser.add_argument("--available", metavar="SIZE", help="bytes that MLX may use, instead of --memory")
    parser.add_argument(
        "--chip", help="published rates of a chip, such as m4-pro (default: measured, this Mac's, or m4)"
    )


def available_bytes(args: argparse.Namespace) -> int:
    """Returns the bytes that MLX may use: as asked for, else as this machine has them.

    Raises:
        UsageError: both asked for, or something that is no size.
    """
    from moe_mlx.planning.forecast import usable_memory
    from moe_mlx.system.sizes import parse_size

    if args.available and args.memory:
        raise UsageError("--available and --memory contradict each other: give one")
    for option, given in (("--available", args.available), ("--memory", args.memory)):
        if given and given.strip().isdecimal() and int(given) < _LEAST_MEMORY:
            raise UsageError(f"{option} {given} is {int(given)} bytes: write a unit, such as 16GB")
    if args.available:
        return parse_size(args.available)
    if args.memory:
        return usable_memory(parse_size(args.memory))
    from moe_mlx.system.memory import recommended_bytes

    return recommended_bytes()


def chosen_rates(args: argparse.Namespace) -> Rates:
    """Returns the rates of `--chip`, else of this machine: as measured, else of its chip."""
    from moe_mlx.catalogue.estimate import rates_here
    from moe_mlx.planning.chips import chip_named
    from moe_mlx.planning.prediction import Rates

    return Rates.of_chip(chip_named(args.chip), "native") if args.chip else rates_here()
