"""Prompt caches of earlier answers: within the bytes that the plan leaves, the one unused longest goes first."""

from __future__ import annotations

import time
from typing import Any

from mlx import nn
from mlx_lm.models.cache import LRUPromptCache, make_prompt_cache

from moe_mlx.conversation.prompt_store import PromptStore
from moe_mlx.loading.cutting import can_always_cut, cut_back, lost_front
from moe_mlx.serving.runners import Worth

#: All caches here are of one model.
_KEY = "model"
#: Seconds without a new one after which caches are written: not while an agent is in the middle of its turns.
CALM_SECONDS = 5.0


class KeptPrompts:
    """Prompt caches in memory. Used by the generating thread alone.

    Attributes:
        trimmable: Whether the model's caches can be cut back to a shared beginning however long they are; others are
            used only whole where they cannot.
        most_bytes: What they may take together, the memory plan aside.
    """

    def __init__(
        self, model: nn.Module, sequences: int, most_bytes: int | None, store: PromptStore | None = None
    ) -> None:
        self.model, self.sequences, self.most_bytes, self.store = model, sequences, most_bytes, store
        self._unsaved: list[Worth] = []
        self.trimmable = can_always_cut(make_prompt_cache(model))
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
                if cut_back(cache, 1):
                    rest = prompt[-1:]
                else:
                    cache, rest = self._kept.fetch_nearest_cache(_KEY, prompt[:-1])
                    rest = [*rest, prompt[-1]]
            at_hand = 0 if cache is None else len(prompt) - len(rest)
            if self.store is not None and (found := self.store.find(prompt, better_than=at_hand)) is not None:
                return found
            if cache is not None and at_hand:
                return cache, at_hand
        return make_prompt_cache(self.model), 0

    def keep(self, worth: Worth) -> None:
        """Keeps a cache."""
        if self.sequences > 0 and worth.tokens and not lost_front(worth.cache):  # mlx-lm would cut those wrongly
            self._kept.insert_cache(_KEY, worth.tokens, worth.cache)
            if self.store is not None:
                self._unsaved = [*self._unsaved[-self.sequences :], worth]
                self._fresh = time.monotonic()

    def trim(self, nbytes: int) -> None:
        """Lets go of caches until they take no more than so many bytes."""
        most = nbytes if self.most_bytes is None else min(nbytes, self.most_bytes)
        if self.nbytes > most:
            self.save(at_once=True)
            self._kept.trim_to(n_bytes=max(0, most))

    def save(self, *, at_once: bool = False) -> None:
        """Writes what is new to disk, the latest first: now, or once nothing new has come for `CALM_SECONDS`."""
        if self.store is None or not self._unsaved:
            return
        if at_once or time.monotonic() - self._fresh > CALM_SECONDS:
            for worth in reversed(self._unsaved):
                self.store.keep(worth.tokens, worth.cache)
            self._unsaved = []

    def clear(self) -> None:
        """Lets go of all."""
        self._unsaved = []
        self._kept = LRUPromptCache(max(1, self.sequences))
