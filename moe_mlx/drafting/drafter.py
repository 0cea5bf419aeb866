"""What guesses tokens: any smaller model that mlx-lm loads, with a KV cache of its own. A head is another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.loading.cutting import cut_back

#: Tokens of a prompt that a drafter reads at a time.
_CHUNK = 512


class Drafter(Protocol):
    """Guesses what comes next. It is told what the model was fed, and is never right or wrong by itself.

    Attributes:
        reads_hidden: Whether it wants the model's hidden states.
    """

    reads_hidden: bool

    @property
    def nbytes(self) -> int:
        """Bytes of its cache as it stands."""

    def begin(self, context: Sequence[int]) -> None:
        """Begins an answer: the model's cache holds `context`, which it may know or not."""

    def took(self, tokens: Sequence[int], hidden: mx.array | None) -> None:
        """Notes tokens that the model's cache holds from now on, behind those before.

        Args:
            tokens: Their ids.
            hidden: `[1, L, D]`, the model's hidden states of them, where they are wanted.
        """

    def draft(self, token: int, count: int) -> list[int]:
        """Returns guesses of the tokens after `token`, which follows all that was taken.

        Args:
            token: The latest token, which the model was not fed yet.
            count: How many are wanted, at least 1.
        """


class ModelDrafter:
    """A whole model, in memory, that guesses greedily; its cache is made to fit at each draft."""

    reads_hidden = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._cache = make_prompt_cache(model)
        self._held: list[int] = []
        self._seen: list[int] = []

    @property
    def nbytes(self) -> int:
        """See `Drafter`."""
        return sum(int(getattr(layer, "nbytes", 0)) for layer in self._cache)

    def begin(self, context: Sequence[int]) -> None:
        """See `Drafter`."""
        self._seen = list(context)

    def took(self, tokens: Sequence[int], hidden: mx.array | None) -> None:
        """See `Drafter`."""
        self._seen.extend(tokens)

    def draft(self, token: int, count: int) -> list[int]:
        """See `Drafter`."""
        behind = self._catch_up([*self._seen, token])
        logits = self.model(mx.array([behind]), cache=self._cache)
        made: list[mx.array] = []
        for number in range(count):
            guess = mx.argmax(logits[:, -1, :], axis=-1)
            made.append(guess)
            if number < count - 1:
                logits = self.model(guess[:, None], cache=self._cache)
        guesses: list[int] = mx.concatenate(made).tolist()
        self._held += behind + guesses[:-1]
        return guesses

    def _catch_up(self, wanted: list[int]) -> list[int]:
        """Cuts the cache back to what it has in common with `wanted`, reads most of the rest and returns the end."""
        shared = min(len(self._held), len(wanted) - 1)
        if self._held[:shared] != wanted[:shared]:
            shared = next(i for i in range(shared) if self._held[i] != wanted[i])
        if not cut_back(self._cache, len(self._held) - shared):
            self._cache, shared = make_prompt_cache(self.model), 0
        while len(wanted) - shared > _CHUNK:
            self.model(mx.array([wanted[shared : shared + _CHUNK]]), cache=self._cache)
            mx.eval([layer.state for layer in self._cache])
            shared += _CHUNK
        self._held = wanted[:shared]
        return wanted[shared:]
