"""List the models on this machine (the demo, your folders, the hub's cache) and known ones, and what fits of each.

Folders are those of the config file (`folders`), else ~/models and LM Studio's. What fits, and tokens a second, are the
plan's for the cap that `auto` chooses: `moe-mlx plan MODEL` shows how they come about.
"""

from __future__ import annotations

import argparse
import json
import sys
from textwrap import fill
from typing import TYPE_CHECKING

from moe_mlx.commands.plan_arguments import add_machine_arguments, available_bytes, chosen_rates
from moe_mlx.errors import one_line

if TYPE_CHECKING:
    from moe_mlx.catalogue.offers import Offer

_HEADS = ["model", "family", "form", "size", "experts", "top-k", "fits", "tok/s"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx list`."""
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="look here instead of in the config's folders")
    add_machine_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints both tables; a model that cannot be run is told on standard error."""
    from moe_mlx.catalogue.offers import offers
    from moe_mlx.system.config import model_folders
    from moe_mlx.system.sizes import show_bytes
    from moe_mlx.system.table import render

    rates, available = chosen_rates(args), available_bytes(args)
    found = offers(available, rates, args.folders or model_folders())
    here, known = [offer for offer in found if offer.here], [offer for offer in found if not offer.here]
    if args.json:
        print(
            json.dumps(
                {
                    "available_bytes": available,
                    "machine": rates.name,
                    "assumed": rates.assumed,
                    "here": [offer.as_json() for offer in here],
                    "known": [offer.as_json() for offer in known],
                }
            )
        )
        return 0
    print(render(_HEADS, [_cells(offer) for offer in here], left=3))
    if known:
        print("\nknown, not on this machine (moe-mlx fetch NAME; sizes of the 4-bit MLX checkpoint):\n")
        print(render(_HEADS, [_cells(offer) for offer in known], left=3))
    print(f"\n{show_bytes(available)} for MLX. " + fill(f"tok/s on {rates.name}: {rates.assumed}.", 100))
    for offer in here:
        if offer.problem:
            print(f"{one_line(offer.name)}: {one_line(offer.problem)}", file=sys.stderr)
    return 0


def _cells(offer: Offer) -> list[str]:
    from moe_mlx.system.sizes import show_bytes

    guess = offer.guess
    if guess is None:
        return [one_line(offer.name), "", offer.form, *[""] * 5]
    return [
        one_line(offer.name),
        one_line(offer.family),
        offer.form,
        show_bytes(offer.nbytes),
        f"{offer.layers} x {offer.experts}",
        str(offer.top_k),
        guess.words,
        "-" if guess.tps is None else f"{guess.tps:.1f}",
    ]
