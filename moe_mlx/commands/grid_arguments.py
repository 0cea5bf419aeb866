"""Arguments that `eval` and `simulate` share: lists of caps, policies and parameters. No NumPy here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from moe_mlx.expert_cache.eviction import DEFAULT_EVICTION, EVICTIONS
from moe_mlx.routing.names import AHEAD, DEFAULT_FORM, EASY, EVALUATED, EVALUATED_LIGHTS, LIGHT_FORMS


def add_light_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the lists that say what absent light experts do, and which qualities are held."""
    add = parser.add_argument
    add(
        "--light",
        metavar="NAMES",
        help=f"among {', '.join(EVALUATED_LIGHTS)}; the last leaves them out and is offered nowhere (default: exact)",
    )
    add(
        "--rounded",
        metavar="LEVELS",
        help="levels a weight of --routing rounded: 3 (ternary), 4, 8 (default: all). That, and unwaited, which leaves "
        "out what is absent, are offered nowhere",
    )
    add("--light-beyond", metavar="B", help="shares of a token's weight before a light expert (default: as generate)")
    add(
        "--light-form",
        metavar="NAMES",
        help=f"what of an expert a coarse one is, among {', '.join(LIGHT_FORMS)} (default: {DEFAULT_FORM})",
    )
    add("--light-distance", metavar="D", help="layers later that late outputs are added (default: as generate)")
    add(
        "--quality",
        metavar="LOSSES",
        help="also what holding these prices comes to: KLs a token (0.002) or agreements (99%%), as for generate",
    )


def add_scored_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the lists of the policies that scoring alone can judge."""
    add = parser.add_argument
    add("--ahead", metavar="D", help=f"of --routing {AHEAD}: layers ahead that experts are chosen (default: 1)")
    add(
        "--easy",
        metavar="P",
        help=f"of --routing {EASY}: how likely the likeliest token must be for half of the experts (default: 0.9)",
    )


def add_grid_arguments(parser: argparse.ArgumentParser, routings: Sequence[str] = EVALUATED) -> None:
    """Adds the arguments that say what is measured; every list is written with commas.

    Args:
        parser: Gets them.
        routings: What --routing takes.
    """
    add = parser.add_argument
    add("--expert-cache", metavar="CAPS", help="caps such as 25%%,50%%,75%% or 4GB (default: 50%%; a sweep: all three)")
    add(
        "--routing",
        metavar="NAMES",
        help=f"among {', '.join(routings)} (default: exact,cache-prior; a sweep: {', '.join(EVALUATED)})",
    )
    add("--route-lambda", metavar="L", help="lambdas of Cache-Prior, 0 to 1 (default: as for generate)")
    add("--route-top-j", metavar="J", help="numbers of true top experts never displaced (default: the model's)")
    add("--route-max-rank", metavar="M", help="M of Max-Rank (default: twice the model's top-k)")
    add("--route-mass", metavar="P", help="p of Cumulative, 0 to 1 (default: as for generate)")
    add("--pruned", metavar="K", help="k' of the Pruned baseline (default: every one below top-k)")
    add(
        "--evict",
        metavar="NAMES",
        help=f"among {', '.join(EVICTIONS)} (default: {DEFAULT_EVICTION})",
    )
    add("--sweep", action="store_true", help="the whole trade-off curve: every policy over its range of parameters")
