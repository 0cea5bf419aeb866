"""Arguments of `moe-mlx convert` that give experts fewer bits, and what is printed of it. No MLX here."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from moe_mlx.errors import UsageError
from moe_mlx.store.demo import DEMO
from moe_mlx.store.parts import WIDTHS
from moe_mlx.system.table import render

if TYPE_CHECKING:
    from moe_mlx.store import ExpertSource
    from moe_mlx.store.given import Given
    from moe_mlx.system.talk import Talk
    from moe_mlx_convert.fewer_bits import Giver


def add_bits_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds them."""
    group = parser.add_argument_group(
        "fewer bits",
        "Version 3 of the store: experts of 2, 3 or 4 bits. This changes the model; what it costs is said.",
    )
    group.add_argument(
        "--bits-per-weight",
        metavar="BITS",
        type=float,
        help="give every expert 2, 3 or 4 bits a weight, BITS in the mean of all of them (scales not counted): SRC is "
        "a store or an MLX checkpoint that runs in place, of float weights or affine ones of 4 bits or more",
    )
    group.add_argument(
        "--bits-by",
        choices=("error", "layer", "uniform"),
        help="by the error of each expert's output on a text, over all layers; likewise by layer, whose experts then "
        "have as few bits in memory; or the same to all (default: error)",
    )
    group.add_argument(
        "--calibration",
        metavar="TEXT",
        help=f"that text: a text file, a .jsonl file with a text a line, or demo (default: {DEMO}, its held-out text)",
    )
    group.add_argument(
        "--calibration-tokens", metavar="N", type=int, help="tokens of it that are measured on (default: 2048)"
    )


def check_bits_arguments(args: argparse.Namespace) -> None:
    """Refuses what does not go together.

    Raises:
        UsageError: it does not.
    """
    if args.bits_per_weight is None:
        for name in ("bits_by", "calibration", "calibration_tokens"):
            if getattr(args, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} belongs to --bits-per-weight")
        return
    others = {
        "--upgrade": args.upgrade is not None,
        "--nested": args.nested,
        "--delete-source-shards": args.delete_source_shards,
        "--trust-remote-code": args.trust_remote_code,
        "--machines": bool(args.machines),
        "--row-blocks": args.row_blocks != 1,
    }
    why = {
        "--upgrade": "an upgrade keeps every bit: give the store to --model",
        "--nested": "an expert of fewer bits has no high bits to be read first",
        "--delete-source-shards": "the model is read twice, to measure and to round",
        "--trust-remote-code": "a model of code of its own is not measured",
        "--machines": "its store is not shared out, every machine reads the whole one",
        "--row-blocks": "machines share no rows of experts that have bits of their own",
    }
    for name, given in others.items():
        if given:
            raise UsageError(f"{name} does not go with --bits-per-weight: {why[name]}")
    if args.bits_by == "uniform" and (args.calibration or args.calibration_tokens):
        raise UsageError("--bits-by uniform measures nothing: leave --calibration out")


def giver_of(
    args: argparse.Namespace, say: Callable[[str], None], talk: Talk | None
) -> Callable[[ExpertSource], Giver]:
    """Returns who will give the bits, once the model is open."""

    def give(source: ExpertSource) -> Giver:
        from moe_mlx.bits.giving import ERROR, TOKENS, Giving

        return Giving(
            source,
            args.bits_per_weight,
            by=args.bits_by or ERROR,
            text=args.calibration or DEMO,
            tokens=TOKENS if args.calibration_tokens is None else args.calibration_tokens,
            say=say,
            talk=talk,
        )

    return give


def given_lines(given: Given) -> list[str]:
    """Returns what is printed of the bits that were given: a line, and a table of the layers."""
    measured = f", by their error on {given.calibration}" if given.calibration else ", the same for all"
    return [
        f"{given.spent:.3f} bits a weight of the experts (asked for {given.asked:g}){measured}",
        bits_table("MoE layer", zip(range(len(given.bits)), given.bits, given.errors, strict=True)),
    ]


def bits_table(head: str, layers: Iterable[tuple[int, Sequence[int], float | None]]) -> str:
    """Returns a table of how many of each layer's experts have which bits, and what that changes of its output.

    Args:
        head: Of the layers' numbers.
        layers: Number, bits of each expert, and relative error, where that was measured.
    """
    rows = []
    for number, bits, error in layers:
        counts = [str(bits.count(width)) for width in WIDTHS]
        rows.append([str(number), *counts, f"{sum(bits) / len(bits):.2f}", "-" if error is None else f"{error:.3%}"])
    return render([head, *(f"{width} bits" for width in WIDTHS), "mean", "error of its output"], rows)
