"""Packs generated documents into rows of tokens, each row one long conversation that starts with a document."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from demo_data import Piece, training_documents
from tokenizers import Tokenizer
from torch import Tensor

# (rows, length, share of the batches): most are short and quick, some teach long conversations.
LAYOUTS = ((6, 256, 0.76), (3, 512, 0.16), (1, 1280, 0.08))
PROMPT_WEIGHT = 0.15


def encode(tokenizer: Tokenizer, document: list[Piece]) -> tuple[list[int], list[float]]:
    """Tokens of a document, and how much each counts in the loss: answers fully, prompts a little."""
    ids: list[int] = []
    weights: list[float] = []
    for piece, encoding in zip(document, tokenizer.encode_batch([piece.text for piece in document]), strict=True):
        ids += encoding.ids
        weights += [1.0 if piece.said else PROMPT_WEIGHT] * len(encoding.ids)
    return ids, weights


def batches(tokenizer: Tokenizer, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (tokens, weights) without end; both are `[rows, length + 1]`."""
    rng, documents = random.Random(seed), training_documents(seed)
    while True:
        rows, length, _ = rng.choices(LAYOUTS, [share for _, _, share in LAYOUTS])[0]
        tokens, weights = [], []
        for _ in range(rows):
            ids: list[int] = []
            counts: list[float] = []
            while len(ids) <= length:
                more, values = encode(tokenizer, next(documents))
                ids += more
                counts += values
            tokens.append(ids[: length + 1])
            weights.append(counts[: length + 1])
        yield torch.tensor(tokens), torch.tensor(weights)
