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
ANSWERS = "answers token by token at decode; what is said between them is read as a prompt, exactly, and not scored"
Tick = Callable[[int], None]
#: Model, token and KV cache -> log-probabilities `[V]` of the next token (float32, lazy).
Call = Callable[[nn.Module, int, list[Any]], mx.array]


@dataclass(frozen=True, slots=True)
class Turns:
    """Which tokens of a conversation a model answered with.

    Attributes:
        begins: Token after which an answer begins.
        ends: Token that ends it.
    """

    begins: int
    ends: int

    def decoded(self, document: Sequence[int]) -> list[bool]:
        """Returns of each token whether a decode step hears it: those of answers, and the one before each of them."""
        found, answering = [], False
        for token in document:
            answering = token == self.begins or (answering and token != self.ends)
            found.append(answering)
        return found

    def first(self, documents: Sequence[list[int]], limit: int) -> list[list[int]]:
        """Returns documents up to where so many decode steps have been made."""
        found, left = [], limit
        for document in documents:
            steps = list(itertools.accumulate(map(int, self.decoded(document[:-1]))))
            if not left or not steps or not steps[-1]:
                continue
            found.append(document if steps[-1] <= left else document[: steps.index(left) + 2])
            left -= min(left, steps[-1])
        return found


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
    model: nn.Module, documents: Sequence[Sequence[int]], call: Call = once, turns: Turns | None = None
) -> Iterator[tuple[mx.array, int]]:
    """Yields log-probabilities `[V]` (float32, lazy) and the token that follows, one `call` each.

    With `turns` only those of answers; what lies between is a prompt.
    """
    for document in documents:
        prompt_cache = make_prompt_cache(model)
        decoded = [True] * len(document) if turns is None else turns.decoded(document)
        said: list[int] = []
        for (token, following), answers in zip(itertools.pairwise(document), decoded, strict=False):
            if not answers:
                said.append(token)
                continue
            if said:
                mx.eval(model(mx.array([said]), cache=prompt_cache))
                said = []
            yield call(model, token, prompt_cache), following


def score_reference(
    model: nn.Module,
    documents: Sequence[Sequence[int]],
    reference: Reference,
    tick: Tick,
    turns: Turns | None = None,
) -> None:
    """Fills the reference from a model that routes exactly.

    Args:
        model: The model.
        documents: Tokens.
        reference: Gets every distribution.
        tick: Called with the number of tokens done.
        turns: Which tokens are answers; None: every token is decoded.
    """
    for place, (logp, following) in enumerate(next_tokens(model, documents, turns=turns)):
        row = np.array(logp)
        reference.rows[place] = row
        reference.nll[place] = -float(row[following])
        tick(place + 1)


def score(
    model: nn.Module,
    documents: Sequence[Sequence[int]],
    reference: Reference,
    tick: Tick,
    call: Call = once,
    turns: Turns | None = None,
) -> Score:
    """Scores a model under its current routing; arguments as in `score_reference`, and how a token is computed."""
    nll = np.zeros_like(reference.nll)
    kls, agreed = np.zeros_like(reference.nll), 0
    for place, (logp, following) in enumerate(next_tokens(model, documents, call, turns)):
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
