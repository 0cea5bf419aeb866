"""Who is light and late, against a plain restatement of the rule; settings that cannot be taken."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_mlx.errors import UsageError
from moe_mlx.routing.light import LightRule, pick_late, rows_for
from moe_mlx.routing.settings import RoutingSettings

EXPERTS = 12
WEIGHTS = st.floats(0, 1, width=32)


def plainly(order: list[int], shares: list[float], absent: set[int], beyond: float, most: int) -> list[int] | None:
    """The rule in exact arithmetic; None where double might round it the other way."""
    total = sum(Fraction(shares[expert]) for expert in order)
    before, late = Fraction(0), []
    for expert in order:
        if total and abs(before / total - Fraction(beyond)) < Fraction(1, 10**9):
            return None
        if before > Fraction(beyond) * total and expert in absent:
            late.append(expert)
        before += Fraction(shares[expert])
    return late[:most]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(WEIGHTS, min_size=EXPERTS, max_size=EXPERTS),
    st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=8, unique=True),
    st.sets(st.integers(0, EXPERTS - 1)),
    st.floats(0, 1),
    st.integers(0, 4),
)
def test_the_rule(shares, order, absent, beyond, most):
    order.sort(key=lambda expert: (-shares[expert], expert))
    slot_of = [-1 if expert in absent else expert for expert in range(EXPERTS)]
    late = pick_late(order, shares, slot_of, beyond, most)
    assert order[0] not in late.experts, "the heaviest is always waited for"
    expected = plainly(order, shares, absent, beyond, most)
    if expected is None:
        return
    assert list(late.experts) == expected
    total = sum(shares[expert] for expert in order)
    held = sum(shares[expert] for expert in late.experts)
    assert late.weight == pytest.approx(held / total if expected else 0.0)
    assert held <= (1 - beyond) * total * (1 + 1e-9), "light experts hold no more than is left beyond"


def test_a_weight_that_is_no_number_makes_nobody_late():
    for bad in (np.nan, np.inf):
        shares = [bad, 0.5, 0.25, 0.1]
        assert pick_late([0, 1, 2, 3], shares, [-1] * 4, 0.6, 4).experts == ()


@pytest.mark.parametrize(("top_k", "rows"), [(1, 0), (2, 1), (3, 1), (8, 4)])
def test_half_of_a_token_s_experts_may_be_late(top_k, rows):
    assert rows_for(top_k) == rows


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"light": "sometimes"}, "choose one of exact, late"),
        ({"light": "dropped"}, "choose one of exact, late"),
        ({"light_beyond": 1.5}, "from 0 to 1"),
        ({"light_beyond": "0.6"}, "from 0 to 1"),
        ({"light_beyond": float("nan")}, "from 0 to 1"),
        ({"light_distance": 0}, "whole number of layers"),
    ],
)
def test_settings_that_cannot_be_taken(given, said):
    with pytest.raises(UsageError, match=said):
        RoutingSettings(**given)


def test_how_it_is_said():
    assert RoutingSettings("exact").describe() == "exact"
    late = RoutingSettings("cache-prior", light="late", light_beyond=0.75)
    assert late.describe() == "cache-prior lambda 0.1, light late beyond 0.75"
    assert RoutingSettings("exact", light="late", light_distance=2).describe().endswith("beyond 0.6, 2 layers on")
    assert RoutingSettings("exact").exact and not RoutingSettings("exact", light="late").exact
    assert LightRule("dropped").describe() == "light dropped beyond 0.6"
