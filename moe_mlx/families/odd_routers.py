"""The routers that do not pick with `argpartition` alone: sparsemixer, a Metal kernel, one that orders its choice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from moe_mlx.families.routers import Logits, Ranking, Scored, attribute, first


@dataclass(frozen=True, slots=True)
class SparseMixer:
    """Phi-3.5-MoE: the k largest logits one after the other, each weighed within its own narrow band.

    The band of the model's own pick hangs on the largest logit left, which is that pick. For an expert that stands in,
    it hangs on the expert's own logit, and better ones that were not chosen stay in the band.
    """

    @property
    def kind(self) -> str:
        """See `Router.kind`."""
        return "sparsemixer"

    def observed(self, module: Any, x: mx.array) -> mx.array:
        """See `Router.observed`."""
        z: mx.array = module.gate(x)
        return z

    def ranking(self, module: Any, x: mx.array) -> Ranking:
        """See `Router.ranking`."""
        z = masked = module.gate(x)
        exact = []
        for _ in range(module.top_k):
            exact.append(mx.argmax(masked, axis=-1, keepdims=True))
            masked = mx.put_along_axis(masked, exact[-1], mx.array(-mx.inf, z.dtype), axis=-1)
        return Ranking(z, mx.concatenate(exact, axis=-1), z)

    def weights(self, module: Any, x: mx.array, ranking: Ranking, chosen: mx.array) -> mx.array:
        """See `Router.weights`."""
        z = masked = ranking.weighed
        weights = []
        for place in range(chosen.shape[-1]):
            own = chosen[..., place : place + 1]
            top = mx.take_along_axis(z, own, axis=-1)
            factor = mx.maximum(mx.abs(z), top)
            band = mx.where((top - z) / factor > 2 * module.jitter_eps, -mx.inf, masked)
            weights.append(mx.take_along_axis(mx.softmax(band, axis=-1, precise=True), own, axis=-1))
            masked = mx.put_along_axis(masked, own, mx.array(-mx.inf, z.dtype), axis=-1)
        return mx.concatenate(weights, axis=-1)

    def shares(self, ranking: Ranking) -> mx.array | None:
        """See `Router.shares`: each is weighed within its own band, so there is nothing common."""
        return None


@dataclass(frozen=True, slots=True)
class MuseSpark:
    """Muse Spark: sigmoid and bias in one Metal kernel, which orders its choice by descending biased score."""

    @property
    def kind(self) -> str:
        """See `Router.kind`."""
        return "sigmoid + bias, top-k"

    def _logits(self, module: Any, x: mx.array) -> mx.array:
        z: mx.array = x.astype(mx.float32) @ module.gate.weight.T
        return z

    def _scores(self, module: Any, z: mx.array) -> mx.array:
        z = z * module.router_multiplier
        away = 1 / (1 + mx.exp(mx.abs(z)))
        return mx.where(z < 0, away, 1 - away)

    def observed(self, module: Any, x: mx.array) -> mx.array:
        """See `Router.observed`."""
        bias: mx.array = module.gate.e_score_correction_bias
        return self._scores(module, self._logits(module, x)) + bias

    def ranking(self, module: Any, x: mx.array) -> Ranking:
        """See `Router.ranking`."""
        from mlx_lm.models import muse_spark

        z = self._logits(module, x)
        score = self._scores(module, z)
        exact, _ = muse_spark.expert_routing(
            z,
            module.gate.e_score_correction_bias,
            top_k=module.top_k,
            multiplier=module.router_multiplier,
            score_eps=module.score_eps,
            route_scale=module.route_scale,
        )
        return Ranking(score + module.gate.e_score_correction_bias, exact, score, same_order=False)

    def weights(self, module: Any, x: mx.array, ranking: Ranking, chosen: mx.array) -> mx.array:
        """See `Router.weights`."""
        weights = mx.take_along_axis(ranking.weighed, chosen, axis=-1)
        return weights / (weights.sum(axis=-1, keepdims=True) + module.score_eps) * module.route_scale

    def shares(self, ranking: Ranking) -> mx.array | None:
        """See `Router.shares`: the bare scores."""
        return ranking.weighed


@dataclass(frozen=True, slots=True)
class BiasedLogits:
    """Kolibri: ranks by logits and a bias, orders its choice by that, and weighs by a sigmoid of the bare logits.

    Attributes:
        logits: How the family makes its logits.
        k: Where the module keeps its top-k.
    """

    logits: Logits
    k: str

    @property
    def kind(self) -> str:
        """See `Router.kind`."""
        return "logits + bias, top-k, sigmoid"

    def observed(self, module: Any, x: mx.array) -> mx.array:
        """See `Router.observed`."""
        return self.logits(module, x) + module.e_score_correction_bias.astype(mx.float32)

    def ranking(self, module: Any, x: mx.array) -> Ranking:
        """See `Router.ranking`."""
        z = self.logits(module, x)
        ranked = z + module.e_score_correction_bias.astype(mx.float32)
        picked = first(ranked, attribute(module, self.k))
        order = mx.argsort(-mx.take_along_axis(ranked, picked, axis=-1), axis=-1)
        return Ranking(ranked, mx.take_along_axis(picked, order, axis=-1), z, same_order=False)

    def weights(self, module: Any, x: mx.array, ranking: Ranking, chosen: mx.array) -> mx.array:
        """See `Router.weights`."""
        weights = mx.sigmoid(mx.take_along_axis(ranking.weighed, chosen, axis=-1))
        if module.norm_topk_prob:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)
        return weights

    def shares(self, ranking: Ranking) -> mx.array | None:
        """See `Router.shares`: the sigmoid of the bare logits."""
        return mx.sigmoid(ranking.weighed)


def by_rising_score(scores: mx.array, k: int) -> mx.array:
    """Returns the top-k, the best last."""
    return mx.argsort(scores, axis=-1)[..., -k:]


@dataclass(frozen=True, slots=True)
class KimiVL:
    """Kimi-VL as mlx-vlm has it: DeepSeek-V3's router, whose choice is sorted where there are no groups.

    Attributes:
        grouped: The router of a model with groups.
    """

    grouped: Scored

    @property
    def kind(self) -> str:
        """See `Router.kind`."""
        return self.grouped.kind

    def _own(self, module: Any) -> Scored:
        return self.grouped if module.n_group > 1 else replace(self.grouped, groups=None, pick=by_rising_score)

    def observed(self, module: Any, x: mx.array) -> mx.array:
        """See `Router.observed`."""
        return self.grouped.observed(module, x)

    def ranking(self, module: Any, x: mx.array) -> Ranking:
        """See `Router.ranking`."""
        return self._own(module).ranking(module, x)

    def weights(self, module: Any, x: mx.array, ranking: Ranking, chosen: mx.array) -> mx.array:
        """See `Router.weights`."""
        return self.grouped.weights(module, x, ranking, chosen)

    def shares(self, ranking: Ranking) -> mx.array | None:
        """See `Router.shares`."""
        return self.grouped.shares(ranking)
