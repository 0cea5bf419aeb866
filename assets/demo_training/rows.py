"""Packs generated documents into rows of tokens, each row one long conversation that starts with a document."""

from __future__ import annotations

from collections.abc import Iterator

from demo_data import Piece
from tokenizers import Tokenizer

PROMPT_WEIGHT = 0.15


def encode(tokenizer: Tokenizer, document: list[Piece]) -> tuple[list[int], list[float]]:
    """Tokens of a document, and how much each counts in the loss: answers fully, prompts a little."""
    ids: list[int] = []
    weights: list[float] = []
    for piece, encoding in zip(document, tokenizer.encode_batch([piece.text for piece in document]), strict=True):
        ids += encoding.ids
        weights += [1.0 if piece.said else PROMPT_WEIGHT] * len(encoding.ids)
    return ids, weights


def pack(
    tokenizer: Tokenizer, documents: Iterator[list[Piece]], rows: int, length: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Returns tokens and weights of some rows, both `[rows][length]`."""
    tokens, weights = [], []
    for _ in range(rows):
        ids: list[int] = []
        counts: list[float] = []
        while len(ids) < length:
            more, values = encode(tokenizer, next(documents))
            ids += more
            counts += values
        tokens.append(ids[:length])
        weights.append(counts[:length])
    return tokens, weights
