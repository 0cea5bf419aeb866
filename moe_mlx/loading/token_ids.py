"""Keeps token ids within a model's embedding: MLX looks any number up, in whatever memory lies there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.tokenizer_utils import TokenizerWrapper

from moe_mlx.errors import UsageError
from moe_mlx.store.token_ids import EMBEDDINGS, TokenIds


class CheckedIds:
    """Stands in front of an embedding's own class.

    What is handed in (prompts, and the token after one, which mlx-lm runs alone) is read back and compared. A decode
    step's token is the sampler's and not read back: its embedding becomes NaN where it lies beyond, never another
    token's, never other memory.
    """

    given = True

    def __call__(self: Any, x: mx.array) -> mx.array:
        """Looks up ids of any shape.

        Raises:
            UsageError: an id that the embedding has no row for.
        """
        rows, several = self.weight.shape[0], x.ndim == 0 or x.shape[-1] != 1
        beyond = (x < 0) | (x >= rows)
        if (several or self.given) and x.size:
            self.given = several
            if beyond.any().item():
                worst = (x.min() if x.min().item() < 0 else x.max()).item()
                raise UsageError(f"token id {worst}: the model's embedding has {rows} rows, ids from 0 to {rows - 1}")
            return super().__call__(x)  # type: ignore[misc]
        found = super().__call__(mx.where(beyond, 0, x))  # type: ignore[misc]
        return mx.where(beyond[..., None], mx.array(mx.nan, found.dtype), found)


def check_lookups(model: nn.Module) -> None:
    """Lets the model's embedding check what it looks up, in place; parameters and bits stay as they are."""
    for embedding in _embeddings(model):
        own = type(embedding)
        embedding.__class__ = type(f"Checked{own.__name__}", (CheckedIds, own), {"__module__": own.__module__})


def check_tokenizer(model: nn.Module, tokenizer: TokenizerWrapper, folder: Path) -> str:
    """Compares what a tokenizer can give with the rows of the model's embedding.

    Returns:
        A remark on tokens that the model does not have; nothing where it has all.
    """
    rows = max((embedding.weight.shape[0] for embedding in _embeddings(model)), default=None)
    if rows is None:
        return ""
    every, added = tokenizer.get_vocab(), tokenizer.get_added_vocab()
    return TokenIds({token: n for token, n in every.items() if token not in added}, added).check(rows, folder)


def _embeddings(model: nn.Module) -> Iterator[Any]:
    for path, module in model.named_modules():
        if path.rpartition(".")[2] in EMBEDDINGS and hasattr(module, "as_linear"):
            yield module
