"""Each policy against a plain restatement of its rule, written from the paper and from nothing in the package."""

import math

import numpy as np
import pytest

from moe_mlx.errors import UsageError
from moe_mlx.evaluation.pruned import Pruned
from moe_mlx.routing.cache_prior import CachePrior
from moe_mlx.routing.exact import Exact
from moe_mlx.routing.max_rank import Cumulative, MaxRank
from moe_mlx.routing.policy import choose, finite_range
from moe_mlx.routing.settings import RoutingSettings

DRAWS = 300


def ranked(z):
    """Expert ids, best first, the lower id first among equals."""
    return sorted(range(len(z)), key=lambda e: (-z[e], e))


def plain_cache_prior(z, resident, delta, k, lam, top_j):
    best = set(ranked(z)[:top_j])
    bonus = np.float32(np.float32(lam) * np.float32(delta))
    raised = [np.float32(v + bonus) if e in best or e in resident else v for e, v in enumerate(z)]
    return set(ranked(raised)[:k])


def plain_max_rank(z, resident, k, most, top_j):
    order = ranked(z)
    chosen = order[: min(top_j, k)]
    for expert in order[:most]:
        if len(chosen) < k and expert in resident and expert not in chosen and z[expert] > -math.inf:
            chosen.append(expert)
    for expert in order:
        if len(chosen) < k and expert not in chosen:
            chosen.append(expert)
    return set(chosen)


def plain_mass_rank(z, mass):
    """The fewest top experts that hold the mass, or None where float32 might round it the other way."""
    order = ranked(z)
    weights = [math.exp(float(z[e]) - float(z[order[0]])) for e in order]
    held, total = 0.0, sum(weights)
    for count, weight in enumerate(weights, start=1):
        held += weight / total
        if abs(held - mass) < 1e-5:
            return None
        if held >= mass:
            return count
    return None


def draws(seed, *, masked=False):
    """Random logits (many of them tied), residents, k, J and delta; sometimes with experts ruled out."""
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        experts = int(rng.integers(2, 40))
        k = int(rng.integers(1, min(experts, 8) + 1))
        z = np.round(rng.normal(0, 2, experts), int(rng.integers(0, 3))).astype(np.float32)
        if masked:
            out = rng.permutation(experts)[: int(rng.integers(0, experts - k + 1))]
            z[out] = -np.inf
        mask = rng.random(experts) < rng.random()
        yield z, mask, set(np.flatnonzero(mask).tolist()), k, int(rng.integers(0, k + 1)), float(rng.random() * 4), rng


@pytest.mark.parametrize("masked", [False, True])
def test_cache_prior_is_the_papers_rule(masked):
    for z, mask, resident, k, top_j, delta, rng in draws(1, masked=masked):
        lam = float(rng.random())
        picked = CachePrior(lam, top_j).rank(z, mask, delta, k)
        assert set(picked.tolist()) == plain_cache_prior(z, resident, delta, k, lam, top_j)
        assert len(picked) == k


@pytest.mark.parametrize("masked", [False, True])
def test_max_rank_is_the_papers_rule(masked):
    for z, mask, resident, k, top_j, delta, rng in draws(2, masked=masked):
        most = int(rng.integers(1, len(z) + 1))
        picked = MaxRank(most, top_j, k).rank(z, mask, delta, k)
        assert set(picked.tolist()) == plain_max_rank(z, resident, k, most, top_j)
        assert len(picked) == k


def test_cumulative_is_max_rank_with_the_tokens_own_rank():
    tried = 0
    for z, mask, resident, k, top_j, delta, rng in draws(3, masked=True):
        mass = float(rng.random())
        most = plain_mass_rank(z, mass)
        if most is None:
            continue
        tried += 1
        picked = Cumulative(mass, top_j).rank(z, mask, delta, k)
        assert set(picked.tolist()) == plain_max_rank(z, resident, k, most, top_j)
    assert tried > DRAWS // 2


def test_exact_and_pruned_take_the_best():
    for z, mask, _, k, _, delta, rng in draws(4):
        assert Exact().rank(z, mask, delta, k).tolist() == ranked(z)[:k]
        kept = int(rng.integers(1, k + 1))
        assert Pruned(kept, k).rank(z, mask, delta, k).tolist() == ranked(z)[:kept]


@pytest.mark.parametrize(
    "make", [lambda j, k: CachePrior(1.0, j), lambda j, k: MaxRank(40, j, k), lambda j, k: Cumulative(1.0, j)]
)
def test_the_true_top_j_are_never_lost(make):
    for z, mask, _, k, top_j, _, _ in draws(5, masked=True):
        picked = set(make(top_j, k).rank(z, mask, 1e6, k).tolist())
        assert set(ranked(z)[:top_j]) <= picked


def test_an_expert_the_model_rules_out_is_not_chosen_while_others_are_left():
    for z, _, _, k, top_j, delta, _ in draws(6, masked=True):
        everywhere = np.ones(len(z), dtype=bool)
        for policy in (CachePrior(1.0, top_j), MaxRank(len(z), top_j, k), Cumulative(1.0, top_j)):
            assert np.isfinite(z[policy.rank(z, everywhere, delta, k)]).all()


@pytest.mark.parametrize(
    "policy",
    [Exact(), CachePrior(0.0, 0), MaxRank(3, 0, 3), MaxRank(1, 1, 3), Cumulative(0.0, 0), Pruned(3, 3)],
    ids=lambda p: type(p).__name__,
)
def test_neutral_parameters_are_exact_routing(policy):
    rng = np.random.default_rng(7)
    z, exact = rng.normal(size=9).astype(np.float32), [4, 0, 7]  # the model's choice stands, whatever it is
    assert policy.lossless
    choice = choose(policy, z, exact, rng.random(9) < 0.5, 1.0)
    assert choice.experts is exact
    assert (choice.swapped, choice.displaced) == (0, ())


@pytest.mark.parametrize("policy", [CachePrior(0.0, 0), MaxRank(3, 0, 3), Cumulative(0.0, 0)], ids=lambda p: p.name)
def test_neutral_parameters_rank_as_exact_routing_does(policy):
    rng = np.random.default_rng(8)
    for _ in range(50):
        z = rng.normal(size=9).astype(np.float32)
        assert set(policy.rank(z, rng.random(9) < 0.5, 1.0, 3).tolist()) == set(ranked(z)[:3])


def test_an_unchanged_set_keeps_the_models_own_order():
    z = np.array([3, 2, 1, 0], dtype=np.float32)
    exact = [1, 0]
    assert choose(CachePrior(0.5, 1), z, exact, np.array([True, True, False, False]), 3.0).experts is exact


def test_a_changed_set_comes_by_descending_score_ties_to_the_lower_id():
    z = np.array([1, 5, 1, 1, 5], dtype=np.float32)
    resident = np.array([True, False, True, False, False])
    choice = choose(CachePrior(1.0, 1), z, [4, 1, 0], resident, 4.0)
    assert choice.experts == [1, 0, 2]
    assert choice.displaced == (4,)
    assert choice.swapped == 1


def test_pruning_displaces_and_swaps_nothing_in():
    z = np.array([1, 5, 2, 1, 4], dtype=np.float32)
    choice = choose(Pruned(2, 3), z, [2, 4, 1], np.zeros(5, dtype=bool), 1.0)
    assert choice.experts == [1, 4]
    assert (choice.swapped, choice.displaced) == (0, (2,))


def test_the_range_leaves_out_what_is_ruled_out():
    assert finite_range(np.array([1, -np.inf, 3.5], dtype=np.float32)) == 2.5
    assert finite_range(np.array([-np.inf], dtype=np.float32)) == 0.0


@pytest.mark.parametrize(("top_k", "top_j"), [(1, 1), (2, 1), (3, 2), (8, 2)])
def test_default_j(top_k, top_j):
    policy = RoutingSettings("cache-prior").policy(top_k, 16)
    assert isinstance(policy, Exact) if top_k == 1 else policy.top_j == top_j


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"route_lambda": 1.5}, "route_lambda is 1.5: give a number from 0 to 1"),
        ({"route_lambda": -0.1}, "from 0 to 1"),
        ({"route_lambda": math.nan}, "from 0 to 1"),
        ({"route_mass": 2}, "route_mass is 2"),
        ({"route_top_j": -1}, "route_top_j is -1"),
        ({"route_max_rank": 0}, "route_max_rank is 0"),
        ({"routing": "random"}, "unknown routing 'random': choose one of exact, cache-prior"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, says):
    with pytest.raises(UsageError, match=says):
        RoutingSettings(**settings)


@pytest.mark.parametrize("make", [lambda j, k: CachePrior(0.5, j), lambda j, k: MaxRank(12, j, k)])
def test_equal_scores_are_no_swap(make):
    """Whichever of equal scores the model took, the policy displaces it only by another score."""
    tied = 0
    for z, mask, _, k, top_j, delta, rng in draws(9, masked=True):
        shuffled = rng.permutation(len(z))
        exact = shuffled[np.argsort(-z[shuffled], kind="stable")][:k].tolist()
        tied += set(exact) != set(ranked(z)[:k])
        choice = choose(make(top_j, k), z, exact, mask, delta)
        newcomers = set(choice.experts) - set(exact)
        assert not {z[e] for e in newcomers} & {z[e] for e in choice.displaced}
        assert choice.swapped == len(newcomers) == len(choice.displaced)
        nowhere = choose(make(top_j, k), z, exact, np.zeros(len(z), dtype=bool), delta)
        assert nowhere.experts is exact
    assert tied > DRAWS // 10
