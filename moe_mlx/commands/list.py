"""List the models on this machine (the demo, your folders, the hub's cache) and known ones, and what fits of each.

Folders are those of the config file (`folders`), else ~/models and LM Studio's. What fits, and tokens a second, are the
plan's for the cap that `auto` chooses: `moe-mlx plan MODEL` shows how they come about.
"""

from __future__ import annotations

import argparse
import json
import sys
from textwrap import fill
from typing import TYPE_CHECKING, Any

from moe_mlx.commands.plan_arguments import add_machine_arguments, available_bytes, chosen_rates
from moe_mlx.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moe_mlx.catalogue.estimate import Estimate
    from moe_mlx.catalogue.found import Entry
    from moe_mlx.planning.shape import ModelShape

_HEADS = ["model", "family", "form", "size", "experts", "top-k", "fits", "tok/s"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx list`."""
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="look here instead of in the config's folders")
    add_machine_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints both tables; a model that cannot be run is told on standard error."""
    from moe_mlx.catalogue.estimate import estimate
    from moe_mlx.catalogue.found import DEFAULT_FOLDERS, find_models
    from moe_mlx.catalogue.known import known_models
    from moe_mlx.system.config import model_folders
    from moe_mlx.system.sizes import show_bytes

    rates, available = chosen_rates(args), available_bytes(args)
    here = find_models(args.folders or model_folders() or DEFAULT_FOLDERS)
    names = {entry.name.lower() for entry in here}
    known = [model for model in known_models() if model.repo.lower() not in names]

    def planned(shape: ModelShape | None) -> Estimate | None:
        return None if shape is None else estimate(shape, available, rates)

    found = [(entry, planned(entry.shape)) for entry in here]
    beyond = [(model, planned(model.shape)) for model in known]
    if args.json:
        print(
            json.dumps(
                {
                    "available_bytes": available,
                    "machine": rates.name,
                    "assumed": rates.assumed,
                    "here": [_entry_json(entry, guess) for entry, guess in found],
                    "known": [
                        {"name": model.name, "model": model.repo, **_figures(model.shape, guess)}
                        for model, guess in beyond
                    ],
                }
            )
        )
        return 0
    rows = [_cells(entry.name, entry.shape, entry.form, guess) for entry, guess in found]
    print(_table(_HEADS, rows))
    if known:
        print("\nknown, not on this machine (moe-mlx fetch NAME; sizes of the 4-bit MLX checkpoint):\n")
        print(_table(_HEADS, [_cells(model.name, model.shape, "hub", guess) for model, guess in beyond]))
    print(f"\n{show_bytes(available)} for MLX. " + fill(f"tok/s on {rates.name}: {rates.assumed}.", 100))
    _tell_problems(here)
    return 0


def _tell_problems(entries: Sequence[Entry]) -> None:
    for entry in entries:
        if entry.problem:
            print(f"{one_line(entry.name)}: {one_line(entry.problem)}", file=sys.stderr)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    from moe_mlx.system.table import render

    return render(heads, rows, left=3)


def _cells(name: str, shape: ModelShape | None, form: str, guess: Estimate | None) -> list[str]:
    from moe_mlx.system.sizes import show_bytes

    if shape is None or guess is None:
        return [one_line(name), "", form, *[""] * 5]
    layer = shape.layers[0]
    return [
        one_line(name),
        one_line(shape.config.get("model_type")),
        form,
        show_bytes(shape.experts_nbytes + shape.resident_nbytes),
        f"{len(shape.layers)} x {layer.experts}",
        str(layer.top_k),
        guess.words,
        "-" if guess.tps is None else f"{guess.tps:.1f}",
    ]


def _entry_json(entry: Entry, guess: Estimate | None) -> dict[str, Any]:
    figures = {} if entry.shape is None else _figures(entry.shape, guess)
    return {
        "name": entry.name,
        "model": entry.model,
        "place": entry.place,
        "path": str(entry.path),
        "form": entry.form,
        "problem": entry.problem,
        **figures,
    }


def _figures(shape: ModelShape, guess: Estimate | None) -> dict[str, Any]:
    assert guess is not None
    return {
        "family": shape.config.get("model_type"),
        "bytes": shape.experts_nbytes + shape.resident_nbytes,
        "layers": len(shape.layers),
        "experts": shape.layers[0].experts,
        "top_k": shape.layers[0].top_k,
        "fits": guess.fits,
        "share": guess.share if guess.fits else None,
        "total_bytes": guess.total,
        "tokens_per_second": guess.tps,
        "why_not": guess.why_not,
    }
