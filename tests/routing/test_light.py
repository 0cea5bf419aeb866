"""Who is light and late, against a plain restatement of the rule; settings that cannot be taken."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_mlx.errors import UsageError
from moe_mlx.routing.light import NONE_LIGHT, LightRule, Room, by_rank, pick_light, rows_for
from moe_mlx.routing.names import DEFAULT_FORM, LIGHT_FORMS
from moe_mlx.routing.settings import RoutingSettings
from moe_mlx.store.parts import COARSE, COARSE_FORMS

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
    late = pick_light(order, shares, slot_of, beyond, Room(EXPERTS, most))
    assert order[0] not in late.late, "the heaviest is always waited for"
    expected = plainly(order, shares, absent, beyond, most)
    if expected is None:
        return
    assert list(late.late) == expected
    total = sum(shares[expert] for expert in order)
    held = sum(shares[expert] for expert in late.late)
    assert late.late_weight == pytest.approx(held / total if expected else 0.0)
    assert held <= (1 - beyond) * total * (1 + 1e-9), "light experts hold no more than is left beyond"


@settings(max_examples=400, deadline=None)
@given(
    st.lists(WEIGHTS, min_size=EXPERTS, max_size=EXPERTS),
    st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=8, unique=True),
    st.lists(st.sampled_from([-1, 0, 99]), min_size=EXPERTS, max_size=EXPERTS),
    st.floats(0, 1),
    st.integers(0, 4),
)
def test_the_rule_of_who_is_coarse(shares, order, slot_of, beyond, late):
    """Whole slots are below 50, low ones above: light and not whole is coarse, and late where it is absent."""
    order.sort(key=lambda expert: (-shares[expert], expert))
    light = pick_light(order, shares, slot_of, beyond, Room(50, late, EXPERTS))
    assert not {expert for expert in light.coarse if slot_of[expert] == 0}, "what is resident whole is used whole"
    assert order[0] not in light.coarse
    expected = plainly(order, shares, {e for e in order if slot_of[e] != 0}, beyond, EXPERTS)
    if expected is None:
        return
    assert list(light.coarse) == expected
    assert list(light.late) == [expert for expert in expected if slot_of[expert] < 0][:late]
    total = sum(shares[expert] for expert in order)
    held = sum(shares[expert] for expert in light.coarse)
    assert light.coarse_weight == pytest.approx(held / total if expected else 0.0)
    assert held <= (1 - beyond) * total * (1 + 1e-9), "light experts hold no more than is left beyond"


@pytest.mark.parametrize(("k", "heavy"), [(1, 1), (2, 1), (4, 2), (5, 3), (8, 4)])
def test_without_weights_the_first_half_is_not_light(k, heavy):
    order = list(range(k))[::-1]
    for beyond in (0.0, 0.6):
        light = pick_light(order, by_rank(order, EXPERTS), [-1] * EXPERTS, beyond, Room(4, 0, EXPERTS))
        assert list(light.coarse) == order[heavy:]
    assert pick_light(order, by_rank(order, EXPERTS), [-1] * EXPERTS, 1.0, Room(4, 0, EXPERTS)) == NONE_LIGHT


def test_a_weight_that_is_no_number_makes_nobody_light():
    for bad in (np.nan, np.inf):
        shares = [bad, 0.5, 0.25, 0.1]
        assert pick_light([0, 1, 2, 3], shares, [-1] * 4, 0.6, Room(4, 4, 4)) == NONE_LIGHT


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


def test_forms_are_called_as_in_a_store():
    assert tuple(COARSE_FORMS) == LIGHT_FORMS and DEFAULT_FORM == COARSE
