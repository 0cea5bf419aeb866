"""Fewer experts for easy tokens (MoBiLE, arXiv 2510.12357), for `eval` only: half of them where the model is sure.

Each token is first computed with half of its experts. Where the likeliest next token then has less than a share `sure`
of the probability, the token is taken back from the KV cache and computed again with all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx import nn

from moe_mlx.errors import UsageError
from moe_mlx.evaluation.pruned import Pruned
from moe_mlx.evaluation.scoring import once
from moe_mlx.loading.cutting import cut_back


@dataclass
class EasyTokens:
    """How a model's tokens are computed.

    Attributes:
        sure: Probability of the likeliest token from which half of the experts are enough, in [0, 1].
        whole: Whether the call under way takes every expert.
        redone: Tokens that were computed again.
    """

    sure: float
    whole: bool = False
    redone: int = 0

    def policy(self, top_k: int, experts: int) -> Fewer:
        """Returns the policy of a layer."""
        return Fewer(max(1, top_k // 2), top_k, tokens=self)

    def call(self, model: nn.Module, token: int, prompt_cache: list[Any]) -> mx.array:
        """Returns log-probabilities `[V]`, as `scoring.once` does.

        Raises:
            UsageError: no token can be taken back from this model's KV cache.
        """
        self.whole = False
        found = once(model, token, prompt_cache)
        if self.sure <= 0 or found.max().item() >= math.log(self.sure):
            return found
        if not cut_back(prompt_cache, 1):
            raise UsageError("--routing easy takes tokens back from the KV cache, and this model's cannot give them")
        self.whole, self.redone = True, self.redone + 1
        return once(model, token, prompt_cache)


@dataclass(frozen=True, slots=True)
class Fewer(Pruned):
    """Keeps the true top `kept`, or all k where the call takes every expert.

    Attributes:
        tokens: Whose calls these are.
    """

    name: str = "easy"
    tokens: EasyTokens = field(kw_only=True)

    @property
    def lossless(self) -> bool:
        """While every expert is taken."""
        return self.tokens.whole or self.kept >= self.k
