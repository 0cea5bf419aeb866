"""Scores documents token by token at decode: one token a model call, KV cache and expert cache live.

A wide forward pass would be a prompt, which is routed exactly, and would hide what a policy does. Each document starts
with an empty KV cache; residency and running ranges go on from one document to the next, as in a long session.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache
from numpy.typing import NDArray

from moe_mlx.conversation.divergence import divergence_of, log_probabilities
from moe_mlx.evaluation.reference import Reference

PROTOCOL = (
    "token by token at decode; each document starts with an empty KV cache, residency and running ranges go on; "
    "everything is reset before each setting"
)
Tick = Callable[[int], None]
#: Model, token and KV cache -> log-probabilities `[V]` of the next token (float32, lazy).
Call = Callable[[nn.Module, int, list[Any]], mx.array]


@dataclass(frozen=True, slots=True)
class Score:
    """One pass over the documents against the reference.

    Attributes:
        nll: float64 `[T]`, negative log-likelihood of each scored token, in nats.
        kl: Mean KL(exact || policy) of the next-token distributions, in nats.
        agreement: Share of tokens at which both find the same token likeliest.
        ppl_change: Perplexity against the reference's, minus 1.
        ppl_error: Standard error of `ppl_change`, from the paired differences of the tokens.
        kl_error: Standard error of `kl`.
        kls: float64 `[T]`, what `kl` is the mean of.
    """

    nll: NDArray[np.float64]
    kl: float
    agreement: float
    ppl_change: float
    ppl_error: float
    kl_error: float = 0.0
    kls: NDArray[np.float64] | None = None

    @property
    def ppl(self) -> float:
        """Perplexity."""
        return float(np.exp(self.nll.mean()))


def vocabulary_of(model: nn.Module) -> int:
    """Returns the width of the model's logits; runs one token, so reset afterwards."""
    return int(model(mx.array([[0]]), cache=make_prompt_cache(model)).shape[-1])


def once(model: nn.Module, token: int, prompt_cache: list[Any]) -> mx.array:
    """Returns log-probabilities `[V]` (float32, lazy) of one model call."""
    return log_probabilities(model(mx.array([[token]]), cache=prompt_cache)[0, -1])


def next_tokens(
    model: nn.Module, documents: Sequence[Sequence[int]], call: Call = once
) -> Iterator[tuple[mx.array, int]]:
    """Yields log-probabilities `[V]` (float32, lazy) and the token that follows, one `call` each."""
    for document in documents:
        prompt_cache = make_prompt_cache(model)
        for token, following in itertools.pairwise(document):
            yield call(model, token, prompt_cache), following


def score_reference(model: nn.Module, documents: Sequence[Sequence[int]], reference: Reference, tick: Tick) -> None:
    """Fills the reference from a model that routes exactly.

    Args:
        model: The model.
        documents: Tokens.
        reference: Gets every distribution.
        tick: Called with the number of tokens done.
    """
    for place, (logp, following) in enumerate(next_tokens(model, documents)):
        row = np.array(logp)
        reference.rows[place] = row
        reference.nll[place] = -float(row[following])
        tick(place + 1)


def score(
    model: nn.Module, documents: Sequence[Sequence[int]], reference: Reference, tick: Tick, call: Call = once
) -> Score:
    """Scores a model under its current routing; arguments as in `score_reference`, and how a token is computed."""
    nll = np.zeros_like(reference.nll)
    kls, agreed = np.zeros_like(reference.nll), 0
    for place, (logp, following) in enumerate(next_tokens(model, documents, call)):
        exact = mx.array(reference.rows[place])
        divergence = divergence_of(exact, logp)
        same = mx.argmax(exact) == mx.argmax(logp)
        mx.eval(logp, divergence, same)
        nll[place] = -logp[following].item()
        kls[place] = divergence.item()
        agreed += bool(same.item())
        tick(place + 1)
    differences = nll - reference.nll
    tokens = nll.size
    change = float(np.expm1(differences.mean()))
    error = (1 + change) * _standard_error(differences)
    return Score(nll, float(kls.mean()), agreed / tokens, change, error, _standard_error(kls), kls)


def _standard_error(values: NDArray[np.float64]) -> float:
    """Returns that of the mean of what each token gave; 0 where there is but one."""
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else 0.0
