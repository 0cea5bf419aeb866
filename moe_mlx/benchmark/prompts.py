"""The tokens of a bench: random ones as in mlx_lm.benchmark, or a text whose second half the decode is forced along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moe_mlx.errors import UsageError

SEED = 0


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is prefilled, and what decode is led along; `forced` empty: the model's own greedy choice."""

    prompt: tuple[int, ...]
    forced: tuple[int, ...] = ()


def vocabulary_size(config: Mapping[str, Any]) -> int:
    """Returns the vocabulary's size by a config.

    Raises:
        UsageError: the config has none.
    """
    for place in (config, config.get("text_config") or {}):
        if isinstance(size := place.get("vocab_size"), int):
            return size
    raise UsageError("the config names no vocab_size: give a text with --prompt-file")


def random_tokens(config: Mapping[str, Any], count: int) -> Tokens:
    """Returns the same random prompt every time."""
    return Tokens(tuple(np.random.default_rng(SEED).integers(0, vocabulary_size(config), count).tolist()))


def tokens_of(ids: list[int], prompt: int, generated: int, path: Path) -> Tokens:
    """Splits a text: the prompt, and the tokens that every setting decodes, whatever it would have said itself.

    Args:
        ids: The text's tokens.
        prompt: Prompt tokens asked for; fewer are taken where the text is short.
        generated: Tokens to decode.
        path: Where the text came from.

    Raises:
        UsageError: the text is too short to decode along.
    """
    needed = generated + 2
    if len(ids) < needed:
        raise UsageError(f"{path}: {len(ids)} tokens, and -g {generated} needs {needed}: give a longer text or less -g")
    prompt = min(prompt, len(ids) - generated - 1)
    return Tokens(tuple(ids[:prompt]), tuple(ids[prompt : prompt + generated + 1]))


def read_prompt_file(path: Path, tokenizer: Any, prompt: int, generated: int) -> Tokens:
    """Reads a text and splits it as `tokens_of` does.

    Raises:
        UsageError: no such file, no text, or too short.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompt-file {path}: {error}") from None
    return tokens_of(list(tokenizer.encode(text)), prompt, generated, path)
