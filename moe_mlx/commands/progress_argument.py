"""How a verb that moves many bytes shows how far it is."""

from __future__ import annotations

import argparse


def add_progress_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--progress`."""
    parser.add_argument(
        "--progress",
        choices=("auto", "json"),
        default="auto",
        help="a line on a terminal, or a JSON object a line on standard error (default: auto)",
    )
