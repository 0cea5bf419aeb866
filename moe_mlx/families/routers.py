"""The kinds of router: from a module and its input to a ranking, from chosen experts to the model's own weights.

Each restates mlx-lm's arithmetic operation by operation, so that weights at the model's own choice are its own bits.
Attributes of the model's modules are named by dotted paths, as in `"args.n_group"`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import mlx.core as mx
from mlx import nn

Logits = Callable[[Any, mx.array], mx.array]


def attribute(module: Any, path: str) -> Any:
    """Returns what a dotted path leads to."""
    return reduce(getattr, path.split("."), module)


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a router makes of its input, before any weight is known.

    Attributes:
        scores: `[..., E]`, what the model ranks by; minus infinity where its groups rule an expert out.
        exact: `[..., k]`, the model's own choice in its own order.
        weighed: `[..., E]`, what the model weighs by.
        raw: `[..., E]`, the scores before groups were masked; None where there are none.
        same_order: Whether `weighed` orders experts as `scores` does.
    """

    scores: mx.array
    exact: mx.array
    weighed: mx.array
    raw: mx.array | None = None
    same_order: bool = True


class Router(Protocol):
    """One kind of router with the names its family uses.

    Attributes:
        kind: As the table of families prints it.
    """

    @property
    def kind(self) -> str:
        """As the table of families prints it."""

    def observed(self, module: Any, x: mx.array) -> mx.array:
        """Returns `[..., E]`: the ranking scores before groups are masked."""

    def ranking(self, module: Any, x: mx.array) -> Ranking:
        """Returns the ranking of every row of `x`."""

    def weights(self, module: Any, x: mx.array, ranking: Ranking, chosen: mx.array) -> mx.array:
        """Returns `[..., k]`: the model's own weights of `chosen`, from the original scores."""

    def shares(self, ranking: Ranking) -> mx.array | None:
        """Returns `[..., E]`: each expert's weight up to a factor that is common to all; None where there is none."""


def first(scores: mx.array, k: int) -> mx.array:
    """Returns the top-k the way most families pick them."""
    return mx.argpartition(-scores, kth=k - 1, axis=-1)[..., :k]


def last(scores: mx.array, k: int) -> mx.array:
    """Returns the top-k the way the others pick them, which orders them otherwise."""
    return mx.argpartition(scores, kth=-k, axis=-1)[..., -k:]


@dataclass(frozen=True, slots=True)
class TopKSoftmax:
    """Ranks by the logits and weighs by a softmax over the chosen alone.

    Attributes:
        logits: How the family makes its logits.
        k: Where the module keeps its top-k.
        pick: `first` or `last`.
        softmax: Of the chosen logits.
        scale: Where a factor per expert is kept, if any.
    """

    logits: Logits
    k: str
    pick: Callable[[mx.array, int], mx.array] = first
    softmax: Callable[[mx.array], mx.array] = lambda z: mx.softmax(z, precise=True, axis=-1)
    scale: str | None = None

    @property
    def kind(self) -> str:
        """See `Router.kind`."""
        return "top-k, softmax"

    def observed(self, module: Any, x: mx.array) -> mx.array:
        """See `Router.observed`."""
        return self.logits(module, x)

    def ranking(self, module: Any, x: mx.array) -> Ranking:
        """See `Router.ranking`."""
        z = self.logits(module, x)
        return Ranking(z, self.pick(z, attribute(module, self.k)), z)

    def weights(self, module: Any, x: mx.array, ranking: Ranking, chosen: mx.array) -> mx.array:
        """See `Router.weights`."""
        weights = self.softmax(mx.take_along_axis(ranking.weighed, chosen, axis=-1))
        return weights if self.scale is None else weights * attribute(module, self.scale)[chosen]

    def shares(self, ranking: Ranking) -> mx.array | None:
        """See `Router.shares`: a softmax over all experts keeps the proportions of one over the chosen."""
        return None if self.scale else mx.softmax(ranking.weighed, axis=-1, precise=True)


@dataclass(frozen=True, slots=True)
class Groups:
    """Experts come in groups, of which the model keeps the best by its own scores.

    Attributes:
        groups: Where the number of groups is kept.
        kept: Where the number of groups that stay is kept.
        best_of: How many top scores of a group are summed to rate it.
        fill: What the scores of dropped groups become.
        when: Whether the module groups at all.
        weighs_masked: Whether the model weighs by the masked scores.
    """

    groups: str = "n_group"
    kept: str = "topk_group"
    best_of: int = 2
    fill: float = 0.0
    when: Callable[[Any], bool] = lambda module: True
    weighs_masked: bool = False

    def keep(self, module: Any, scores: mx.array) -> mx.array | None:
        """Returns bool `[..., E]`: whether an expert's group stays; None if all do."""
        groups = attribute(module, self.groups) if self.when(module) else 1
        drop = groups - attribute(module, self.kept) if groups > 1 else 0
        if drop <= 0:
            return None
        grouped = mx.unflatten(scores, axis=-1, shape=(groups, -1))
        if self.best_of == 1:
            rating = grouped.max(axis=-1, keepdims=True)
        else:
            rating = mx.topk(grouped, self.best_of, axis=-1).sum(axis=-1, keepdims=True)
        dropped = mx.argpartition(rating, kth=drop - 1, axis=-2)[..., :drop, :]
        keep = mx.put_along_axis(mx.ones(grouped.shape, mx.bool_), dropped, mx.array(False), axis=-2)
        return mx.flatten(keep, -2, -1)


ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "sigmoid": mx.sigmoid,
    "softmax": lambda z: mx.softmax(z, axis=-1, precise=True),
    "imprecise softmax": lambda z: mx.softmax(z, axis=-1),
    "sqrtsoftplus": lambda z: mx.sqrt(nn.softplus(z)),
    "Sigmoid": mx.sigmoid,  # as modules of MLX are called
    "Softmax": lambda z: mx.softmax(z, axis=-1),
}


@dataclass(frozen=True, slots=True)
class Scored:
    """Ranks by a score of each logit, with a correction bias if the family has one, and weighs by the bare score.

    Without a bias, softmax orders experts as their logits do: the logits are then what is ranked by, as in the paper.

    Attributes:
        logits: How the family makes its logits.
        k: Where the module keeps its top-k.
        activation: Of the logits, a key of `ACTIVATIONS`; or `@` and where the module keeps that key.
        pick: `first` or `last`.
        float32: Whether the logits are made float32 first.
        bias: Where the correction bias is kept, if any.
        low: Whether the bias is added in the dtype of the scores; by default, in float32.
        groups: How groups are kept, if any.
        norm: Whether weights are divided by their sum, or where the module keeps that.
        add: Added to the sum.
        least: The sum is never taken to be less.
        scale: Where a factor on the weights is kept, if any.
        cast: Whether the weights get the dtype of the input.
    """

    logits: Logits
    k: str
    activation: str = "sigmoid"
    pick: Callable[[mx.array, int], mx.array] = first
    float32: bool = True
    bias: str | None = None
    low: bool = False
    groups: Groups | None = None
    norm: bool | str = True
    add: float = 0.0
    least: float = 0.0
    scale: str | None = None
    cast: bool = False

    @property
    def kind(self) -> str:
        """See `Router.kind`."""
        name = "configured score" if self.activation.startswith("@") else self.activation.split()[-1]
        return name + (" + bias" if self.bias else "") + (", groups" if self.groups else "") + ", top-k"

    def _scored(self, module: Any, z: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Returns what is weighed by, what the model ranks by, and what a policy ranks by."""
        name = self.activation
        if name.startswith("@"):
            name = attribute(module, name[1:])
        score = ACTIVATIONS[name](z.astype(mx.float32) if self.float32 else z)
        bias = attribute(module, self.bias) if self.bias and hasattr(module, self.bias) else None
        if bias is not None:
            ranked = score + bias.astype(score.dtype) if self.low else score.astype(mx.float32) + bias
            return score, ranked, ranked
        return score, score, z if name == "softmax" else score

    def observed(self, module: Any, x: mx.array) -> mx.array:
        """See `Router.observed`."""
        return self._scored(module, self.logits(module, x))[2]

    def ranking(self, module: Any, x: mx.array) -> Ranking:
        """See `Router.ranking`."""
        score, ranked, raw = self._scored(module, self.logits(module, x))
        k = attribute(module, self.k)
        keep = None if self.groups is None else self.groups.keep(module, ranked)
        same_order = ranked is score
        if self.groups is None or keep is None:
            return Ranking(raw, self.pick(ranked, k), score, same_order=same_order)
        masked = mx.where(keep, ranked, mx.array(self.groups.fill, ranked.dtype))
        exact = self.pick(masked, k)
        # Where dropped groups count as 0, negative scores elsewhere let their experts in after all.
        keep = mx.put_along_axis(keep, exact, mx.array(True), axis=-1)
        scores = mx.where(keep, raw, -mx.inf)
        return Ranking(scores, exact, masked if self.groups.weighs_masked else score, raw, same_order)

    def weights(self, module: Any, x: mx.array, ranking: Ranking, chosen: mx.array) -> mx.array:
        """See `Router.weights`."""
        weights = mx.take_along_axis(ranking.weighed, chosen, axis=-1)
        if attribute(module, self.norm) if isinstance(self.norm, str) else self.norm:
            total = weights.sum(axis=-1, keepdims=True)
            if self.least:
                total = mx.maximum(total, self.least)
            weights = weights / (total + self.add if self.add else total)
        if self.scale is not None:
            weights = weights * attribute(module, self.scale)
        return weights.astype(x.dtype) if self.cast else weights

    def shares(self, ranking: Ranking) -> mx.array | None:
        """See `Router.shares`: the bare scores."""
        return ranking.weighed
