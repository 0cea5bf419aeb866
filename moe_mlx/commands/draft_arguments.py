"""Arguments that name a draft model; spellings are mlx_lm.generate's. No MLX here."""

from __future__ import annotations

import argparse


def number_of_drafts(text: str) -> int:
    """Reads `--num-draft-tokens`."""
    try:
        count = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= count <= 16:
        raise argparse.ArgumentTypeError(f"{text} is out of range: 0 to 16")
    return count


def add_draft_arguments(group: argparse._ActionsContainer) -> None:
    """Adds `--draft-model` and `--num-draft-tokens`."""
    group.add_argument(
        "--draft-model",
        metavar="MODEL",
        help="a smaller model that guesses tokens, which the model then verifies several at a time; loaded whole by "
        "mlx-lm, or by mlx-vlm where it is a multi-token-prediction head in a folder of its own. The answer is the "
        "model's own under exact routing; drafts turn themselves off where verifying reads more bytes of experts a "
        "token than it saves (docs/drafting.md)",
    )
    group.add_argument(
        "--num-draft-tokens",
        type=number_of_drafts,
        metavar="N",
        help="tokens to guess at a time (default: 3, or what a head was made for)",
    )
