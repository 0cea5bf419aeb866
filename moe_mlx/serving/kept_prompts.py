"""Prompt caches of earlier answers: within the bytes that the plan leaves, the one unused longest goes first."""

from __future__ import annotations

from typing import Any

from mlx import nn
from mlx_lm.models.cache import LRUPromptCache, can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache

from moe_mlx.serving.runners import Worth

#: All caches here are of one model.
_KEY = "model"


class KeptPrompts:
    """Prompt caches in memory. Used by the generating thread alone.

    Attributes:
        trimmable: Whether the model's caches can be cut back to a shared beginning; others are used only whole.
        most_bytes: What they may take together, the memory plan aside.
    """

    def __init__(self, model: nn.Module, sequences: int, most_bytes: int | None) -> None:
        self.model, self.sequences, self.most_bytes = model, sequences, most_bytes
        self.trimmable = can_trim_prompt_cache(make_prompt_cache(model))
        self._kept = LRUPromptCache(max(1, sequences))

    @property
    def nbytes(self) -> int:
        """Bytes of all."""
        return int(self._kept.nbytes)

    def __len__(self) -> int:
        return len(self._kept)

    def begin(self, prompt: list[int]) -> tuple[list[Any], int]:
        """Returns a cache to go on from, a copy, and how many tokens of the prompt it holds: all but one at most."""
        if self.sequences > 0:
            cache, rest = self._kept.fetch_nearest_cache(_KEY, prompt)
            if cache is not None and not rest:  # the very prompt: one token has to be computed
                if self.trimmable:
                    trim_prompt_cache(cache, 1)
                    rest = prompt[-1:]
                else:
                    cache, rest = self._kept.fetch_nearest_cache(_KEY, prompt[:-1])
                    rest = [*rest, prompt[-1]]
            if cache is not None and len(rest) < len(prompt):
                return cache, len(prompt) - len(rest)
        return make_prompt_cache(self.model), 0

    def keep(self, worth: Worth) -> None:
        """Keeps a cache."""
        if self.sequences > 0 and worth.tokens:
            self._kept.insert_cache(_KEY, worth.tokens, worth.cache)

    def trim(self, nbytes: int) -> None:
        """Lets go of caches until they take no more than so many bytes."""
        most = nbytes if self.most_bytes is None else min(nbytes, self.most_bytes)
        if self.nbytes > most:
            self._kept.trim_to(n_bytes=max(0, most))

    def clear(self) -> None:
        """Lets go of all."""
        self._kept = LRUPromptCache(max(1, self.sequences))
