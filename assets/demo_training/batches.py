"""Batches of rows, most of them short and quick."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from demo_data import training_documents
from tokenizers import Tokenizer
from torch import Tensor

from .rows import pack

# (rows, length, share of the batches): most are short and quick, some teach long conversations.
LAYOUTS = ((6, 256, 0.76), (3, 512, 0.16), (1, 1280, 0.08))


def batches(tokenizer: Tokenizer, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (tokens, weights) without end; both are `[rows, length + 1]`."""
    rng, documents = random.Random(seed), training_documents(seed)
    while True:
        rows, length, _ = rng.choices(LAYOUTS, [share for _, _, share in LAYOUTS])[0]
        tokens, weights = pack(tokenizer, documents, rows, length + 1)
        yield torch.tensor(tokens), torch.tensor(weights)
