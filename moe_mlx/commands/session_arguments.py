"""What a conversation in the terminal takes: the model, its price, its history, its sampling, its prompt caches."""

from __future__ import annotations

import argparse

from moe_mlx.commands.draft_arguments import add_draft_arguments
from moe_mlx.commands.model_arguments import add_history_arguments, add_model_arguments, add_sampling_arguments
from moe_mlx.commands.price_arguments import add_price_arguments
from moe_mlx.commands.store_arguments import add_store_arguments


def add_session_arguments(parser: argparse.ArgumentParser, *, max_tokens: int, alone: bool = False) -> None:
    """Adds all that the app's engine reads, for `moe-mlx chat` and for what measures the app."""
    add_model_arguments(parser, alone=alone, pictures=True)
    add_price_arguments(parser)
    add_history_arguments(parser, idle=True)
    add_sampling_arguments(parser, max_tokens=max_tokens)
    add_draft_arguments(parser.add_argument_group("drafts"))
    add_store_arguments(parser.add_argument_group("prompt caches between runs"))
