"""A held price: the quality's rule keeps its budget whatever the model loses, the speed's rule reaches its rate."""

import math
import random
from itertools import pairwise

import pytest

from moe_mlx.errors import UsageError
from moe_mlx.routing.holding import UP, WINDOW, Pace, QualityHolder
from moe_mlx.routing.ladder import START, ladder_for, unit_of
from moe_mlx.routing.price import AGREEMENT, KL, Quality, read_price, read_quality, read_speed
from moe_mlx.routing.settings import RoutingSettings

LADDER = ladder_for(8, late=False)


def test_what_people_write():
    assert read_quality("0.002") == read_quality(0.002) == Quality(KL, 0.002)
    assert read_quality("99%").measure == AGREEMENT and read_quality("99%").budget == pytest.approx(0.01)
    assert read_quality("99%").describe() == "99.00% agreement" and read_quality("0.002").describe() == "KL 0.002"
    assert read_price(None, None) is None
    assert read_price("0.01", "12").describe() == "quality KL 0.01, speed 12 tok/s"


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "100%", "0%", "-3%", "nan%", "x", "", "%", "1e999"])
def test_no_quality(text):
    with pytest.raises(UsageError, match="give the KL a token that may be lost"):
        read_quality(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "fast", ""])
def test_no_speed(text):
    with pytest.raises(UsageError, match="give tokens a second"):
        read_speed(text)


@pytest.mark.parametrize("top_k", [2, 4, 8])
@pytest.mark.parametrize("late", [False, True])
def test_every_rung_is_a_routing_and_loses_more_than_the_one_before(top_k, late):
    ladder = ladder_for(top_k, late=late)
    assert RoutingSettings(**ladder[0].changes()).exact
    for below, rung in pairwise(ladder):
        assert rung.loss > below.loss
        settings = RoutingSettings(**rung.changes())
        assert (settings.light == "late") == late
        assert settings.policy(top_k, 32).lossless == (rung.lam == 0)
    assert len({rung.describe() for rung in ladder}) == len(ladder)


def run(size, budget, *, tokens=4000, unit=None, seed=0, size_of=None):
    """Answers of a model that loses `size` a token at lambda 0.1, most of it in few tokens."""
    dice, holder, losses = random.Random(seed), QualityHolder(LADDER, budget, unit), []
    places = [holder.place]
    while len(losses) < tokens:
        mean = (size if size_of is None else size_of(len(losses))) * LADDER[holder.place].loss
        stretch = [mean * dice.lognormvariate(-0.72, 1.2) for _ in range(holder.stretch)]  # a mean of 1, s.d. of 1.8
        losses += stretch
        before = holder.place
        holder.looked(stretch)
        assert 0 <= holder.place < len(LADDER) and holder.place <= before + UP
        places.append(holder.place)
    return holder, losses, places


@pytest.mark.parametrize("size", [0.2, 0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("known", [None, 1.0, 2.0])
def test_the_budget_is_kept_over_its_window_and_spent(size, known):
    holder, losses, _ = run(size, 1.0, unit=None if known is None else size * known)
    for end in range(WINDOW, len(losses) + 1, 500):
        assert sum(losses[end - WINDOW : end]) / WINDOW < 1.15, end
    assert sum(losses[-WINDOW:]) / WINDOW > 0.85
    assert holder.spent == pytest.approx(sum(losses[-WINDOW:]) / WINDOW) and holder.tokens == WINDOW


def test_it_is_deterministic_and_says_why():
    assert run(2.0, 1.0)[2] == run(2.0, 1.0)[2]
    assert run(2.0, 1.0)[2] != run(0.5, 1.0)[2]
    holder = QualityHolder(LADDER, 0.002)
    assert holder.place == START and "nothing measured" in holder.why
    holder.looked([0.0] * 64)
    assert START < holder.place <= START + UP and holder.why.startswith(LADDER[holder.place].describe())


def test_a_surge_is_answered_by_exact_routing_and_made_up_for():
    _, losses, places = run(1.0, 1.0, size_of=lambda token: 30.0 if 1000 <= token < 1300 else 1.0, tokens=5000)
    assert 0 in places, "nothing more is lost until the window has made up for it"
    assert sum(losses[-WINDOW:]) / WINDOW < 1.15


def test_what_was_skipped_counts_as_what_was_looked_at():
    one, other = QualityHolder(LADDER, 1.0), QualityHolder(LADDER, 1.0)
    one.looked([0.5] * 64)
    other.looked([0.5] * 16, skipped=48)
    assert (one.place, one.spent, one.tokens) == (other.place, other.spent, other.tokens)


def test_it_starts_where_an_evaluation_says():
    assert unit_of([]) is None and unit_of([("exact", 0.0), ("cache-prior 0.123", 1.0), ("cache-prior x", 1.0)]) is None
    assert unit_of([("cache-prior 0.1", 0.001), ("cache-prior 0.2", 0.0033)]) == pytest.approx(0.0015)
    assert unit_of([("cache-prior 0.1", math.nan), ("cache-prior 0.1", -1.0), ("cache-prior 0.1", math.inf)]) is None
    assert LADDER[QualityHolder(LADDER, 0.002, 0.002).place].lam == 0.1
    assert QualityHolder(LADDER, 0.002, 1.0).place == 0
    assert QualityHolder(LADDER, 0.002, 1e-9).place == len(LADDER) - 1


def paced(rate_of, wanted, most, tokens=2000):
    pace, now, place, places = Pace(wanted), 0.0, 0, []
    for _ in range(tokens):
        now += 1 / rate_of(place)
        if pace.token(now, place, most):
            place = pace.place
        places.append(place)
    return pace, places


def test_a_speed_is_reached_with_the_least_loss():
    pace, places = paced(lambda place: 10.0 + place, 14.5, 12)
    assert set(places[200:]) == {5}, "4 is too slow, and 5 is not so fast that less would do"
    assert pace.rate == pytest.approx(15.0)


def test_a_speed_goes_no_further_than_it_may():
    pace, places = paced(lambda place: 10.0 + place, 100.0, 7)
    assert max(places) == 7 and "all that the ladder or the quality allows" in pace.why


def test_a_rung_that_was_too_slow_is_not_tried_again_at_once():
    _, places = paced(lambda place: 10.0 if place < 3 else 20.0, 12.0, 12)
    changes = [after for before, after in pairwise(places) if before != after]
    assert changes.count(2) <= 1 + 2000 // 512
