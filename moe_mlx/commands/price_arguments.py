"""Arguments that name a price to hold instead of a routing, and the check that nobody names both. No MLX here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

#: Where the options of routing that stood on the command line are noted: a default of the user's gives way to a price.
TOLD = "routing_told"


class Told(argparse.Action):
    """Stores a value and notes that it was given on the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """See `argparse.Action`."""
        setattr(namespace, self.dest, values)
        setattr(namespace, TOLD, (*getattr(namespace, TOLD, ()), self.option_strings[0]))


def add_price_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--quality` and `--speed`."""
    group = parser.add_argument_group("price (instead of a routing: it is moved between tokens so that this holds)")
    group.add_argument(
        "--quality",
        metavar="LOSS",
        help="the KL to exact routing that a token may cost on the average (0.002), or the agreement to keep (99%%), "
        "over 1,000 tokens; what is left of it is spent on fewer bytes. Every token is audited, which is counted and "
        "shown (docs/holding.md)",
    )
    group.add_argument(
        "--speed",
        metavar="TOK/S",
        help="tokens a second to reach with the least loss; with --quality never beyond that",
    )
