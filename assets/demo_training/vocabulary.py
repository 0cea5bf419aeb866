"""Trains the byte-level BPE tokenizer: single digits, special tokens first."""

from __future__ import annotations

import itertools
from pathlib import Path

from demo_data import SPECIAL_TOKENS, training_documents
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

DOCUMENTS = 25_000
_WORDS = Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def train_tokenizer(size: int, seed: int = 7) -> Tokenizer:
    """Learns a vocabulary of a given size from freshly generated documents.

    A digit is always a token of its own and never swallows the space before it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = itertools.islice(training_documents(seed), DOCUMENTS)
    tokenizer.train_from_iterator(("".join(piece.text for piece in document) for document in documents), trainer)
    return tokenizer


def load_or_train(path: Path, size: int) -> Tokenizer:
    """Reads the tokenizer of a run, or makes it at the run's start."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    tokenizer = train_tokenizer(size)
    tokenizer.save(str(path))
    return tokenizer
