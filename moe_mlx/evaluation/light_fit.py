"""Thresholds of light experts layer by layer: as many misses that do not wait, where that costs the least divergence.

A late output disturbs what follows about by the square of its weight, and by a layer's own factor. A text is scored at
several thresholds, the same in all layers; the factors are those that explain the divergence of its tokens best, by the
squared late weights of each layer (non-negative least squares). Then every layer gets the threshold at which one more
late expert costs the same anywhere (Lagrange).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlx import nn
from numpy.typing import NDArray

from moe_mlx.counts.event_log import EventLog
from moe_mlx.evaluation.documents import digest_of, encode, read_texts
from moe_mlx.evaluation.progress import Progress
from moe_mlx.evaluation.reference import Reference
from moe_mlx.evaluation.scoring import score, score_reference, vocabulary_of
from moe_mlx.history.light_fits import LightFit
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.loading.runtime import Runtime
from moe_mlx.routing.light import LightRule

#: Thresholds that are scored, and that a layer may get. At 1 nothing is light.
THRESHOLDS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9)
WAITS = 1.0
_ROUNDS = 2000

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pass:
    """A text scored at one threshold.

    Attributes:
        beyond: The threshold.
        kl: `[T]`, divergence of each token, in nats.
        late: `[T, L]`, late experts of each token and layer.
        weight: `[T, L]`, their share of the token's weight.
    """

    beyond: float
    kl: Array
    late: Array
    weight: Array


def score_pass(
    runtime: Runtime,
    model: nn.Module,
    documents: Sequence[Sequence[int]],
    reference: Reference,
    rule: LightRule,
    tick: Callable[[int], None],
) -> Pass:
    """Scores documents under a rule, from an emptied cache; arguments as for `scoring.score`."""
    runtime.light_by(rule)
    runtime.reset()
    logs = runtime.layers.ledger.logs
    late, weight = (np.zeros((reference.nll.size, len(logs))) for _ in range(2))

    def count(done: int) -> None:
        for place, log in enumerate(logs):
            late[done - 1, place], weight[done - 1, place] = _late_of(log)
        tick(done)

    found = score(model, documents, reference, count)
    assert found.kls is not None
    return Pass(rule.beyond, found.kls, late, weight)


def _late_of(log: EventLog) -> tuple[int, float]:
    counts = log.read(log.written[0] - 1).counts
    return counts["late"], counts["late_weight_ppb"] / 1e9


def factors(passes: Sequence[Pass]) -> Array:
    """Returns `[L]`, what a layer's squared late weight costs in nats.

    Residuals count by their expected size, as a few tokens diverge a hundred times as much as most.
    """
    squares = np.concatenate([one.weight**2 for one in passes])
    kl = np.concatenate([one.kl for one in passes])
    expected = squares.sum(axis=1)
    trust = 1.0 / (expected + 0.1 * expected.mean() + 1e-12)
    return _non_negative(squares, kl, trust)


def _non_negative(inputs: Array, outputs: Array, trust: Array) -> Array:
    """Returns the least squares solution without negative parts, by coordinates."""
    weighed = inputs * trust[:, None]
    square, right = weighed.T @ inputs, weighed.T @ outputs
    found = np.full(inputs.shape[1], outputs.mean() / max(float(inputs.sum(axis=1).mean()), 1e-12))
    for _ in range(_ROUNDS):
        before = found.copy()
        for place in range(found.size):
            if square[place, place] > 0:
                step = (right[place] - square[place] @ found) / square[place, place]
                found[place] = max(0.0, float(found[place] + step))
        if np.allclose(found, before, rtol=1e-9, atol=0):
            break
    return found


def thresholds(passes: Sequence[Pass], beyond: float) -> tuple[float, ...]:
    """Returns the threshold of each layer that lets as many experts be late as `beyond` in all of them does.

    Args:
        passes: One a threshold; one of them at `beyond`.
        beyond: Which.
    """
    costs = factors(passes)
    layers = costs.size
    wanted = next(float(one.late.mean(axis=0).sum()) for one in passes if one.beyond == beyond)
    points = sorted(passes, key=lambda one: -one.beyond)
    offers = [[(WAITS, 0.0, 0.0), *(_offer(one, layer, costs) for one in points)] for layer in range(layers)]

    def at(price: float) -> list[int]:
        return [min(range(len(offer)), key=lambda n: offer[n][COST] - price * offer[n][LATE]) for offer in offers]

    def late(chosen: Sequence[int]) -> float:
        return sum(offer[n][LATE] for offer, n in zip(offers, chosen, strict=True))

    low, high = 0.0, 1.0
    while late(at(high)) < wanted and high < 1e6:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if late(at(middle)) >= wanted else (middle, high)
    chosen = at(high)
    while spare := _tighter(offers, chosen, late(chosen) - wanted):  # prices are steps: some are late for nothing
        chosen[spare[0]] = spare[1]
    return tuple(offer[n][BEYOND] for offer, n in zip(offers, chosen, strict=True))


Offer = tuple[float, float, float]
BEYOND, COST, LATE = range(3)


def _offer(one: Pass, layer: int, costs: Array) -> Offer:
    return one.beyond, float(costs[layer] * (one.weight[:, layer] ** 2).mean()), float(one.late[:, layer].mean())


def _tighter(offers: Sequence[Sequence[Offer]], chosen: Sequence[int], left: float) -> tuple[int, int] | None:
    """Returns the layer, and its place among the offers, that saves most while at most `left` fewer are late."""
    best, most = None, 0.0
    for layer, (offer, mine) in enumerate(zip(offers, chosen, strict=True)):
        for other in range(mine):
            saved, fewer = (offer[mine][what] - offer[other][what] for what in (COST, LATE))
            if fewer <= left and saved > most:
                best, most = (layer, other), saved
    return best


def fit(
    model: nn.Module,
    tokenizer: Any,
    text: str,
    limit: int | None,
    progress: Progress,
    rule: LightRule,
) -> LightFit:
    """Returns thresholds that are fitted at the cap in force.

    Args:
        model: From `moe_mlx.load`, routed exactly.
        tokenizer: Its tokenizer.
        text: What to fit on, as `--data` takes it.
        limit: Most tokens of it.
        progress: Hears how far it is.
        rule: The mode, distance, and the threshold whose late experts the fit is to match.

    Raises:
        UsageError: the text cannot be read.
    """
    runtime = runtime_of(model)
    documents = encode(read_texts(text), tokenizer, limit)
    tokens = sum(len(document) - 1 for document in documents)
    beyonds = sorted({*THRESHOLDS, rule.beyond})
    runtime.light_by(LightRule())
    with Reference(tokens, vocabulary_of(model)) as reference:
        runtime.reset()
        score_reference(model, documents, reference, progress.stage("exact, to fit by", tokens, "tokens"))
        passes = []
        for beyond in beyonds:
            tried = LightRule(rule.mode, beyond, rule.distance)
            tick = progress.stage(f"fitting, {tried.describe()}", tokens, "tokens")
            passes.append(score_pass(runtime, model, documents, reference, tried, tick))
    runtime.light_by(LightRule())
    found = thresholds(passes, rule.beyond)
    cap = f"{sum(runtime.slots_per_layer) / sum(cache.spec.experts for cache in runtime.layers):.0%}"
    return LightFit(rule.mode, rule.beyond, rule.distance, cap, digest_of(documents, ()), tokens, found)
