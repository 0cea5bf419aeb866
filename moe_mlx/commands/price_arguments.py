"""Arguments that name a price to hold instead of a routing, and the check that nobody names both. No MLX here."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

#: Where options of routing and of a price that stood on the command line are noted: of the two, what is only a default
#: of the user's gives way.
TOLD, PRICE_TOLD = "routing_told", "price_told"


class Told(argparse.Action):
    """Stores a value and notes that it was given on the command line."""

    noted = TOLD

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """See `argparse.Action`."""
        setattr(namespace, self.dest, values)
        setattr(namespace, self.noted, (*getattr(namespace, self.noted, ()), self.option_strings[0]))


class ToldPrice(Told):
    """The same of a price."""

    noted = PRICE_TOLD


def add_price_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--quality` and `--speed`."""
    group = parser.add_argument_group("price (instead of a routing: it is moved between tokens so that this holds)")
    group.add_argument(
        "--quality",
        action=ToldPrice,
        metavar="LOSS",
        help="the KL to exact routing that a token may cost on the average (0.002), or the agreement to keep (99%%), "
        "over 1,000 tokens; what is left of it is spent on fewer bytes. Tokens are audited for it, which is counted "
        "and shown (docs/holding.md)",
    )
    group.add_argument(
        "--speed",
        action=ToldPrice,
        metavar="TOK/S",
        help="tokens a second to reach with the least loss; with --quality never beyond that",
    )
