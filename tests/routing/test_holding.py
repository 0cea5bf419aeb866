"""A held price: the quality's rule keeps its budget whatever the model loses, the speed's rule reaches its rate."""

import math
import random
from itertools import pairwise

import pytest

from moe_mlx.errors import UsageError
from moe_mlx.routing.holding import CARRY, MOST, PERIOD, SHORT, UP, Pace, QualityHolder
from moe_mlx.routing.ladder import START, ladder_for, measured_ladder
from moe_mlx.routing.price import AGREEMENT, KL, Quality, read_price, read_quality, read_speed
from moe_mlx.routing.settings import RoutingSettings

LADDER = ladder_for(8, late=False, fine=True)
LONGEST = 384


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
@pytest.mark.parametrize(("late", "fine"), [(False, False), (True, False), (False, True)])
def test_every_rung_is_a_routing_and_loses_more_than_the_one_before(top_k, late, fine):
    ladder = ladder_for(top_k, late=late, fine=fine)
    assert RoutingSettings(**ladder[0].changes()).exact
    for below, rung in pairwise(ladder):
        assert rung.loss > below.loss
        settings = RoutingSettings(**rung.changes())
        assert (settings.light == "late") == late
        assert settings.policy(top_k, 32).lossless == (rung.lam == 0)
    assert len({rung.describe() for rung in ladder}) == len(ladder)


def test_a_fine_ladder_has_small_steps():
    for below, rung in pairwise(LADDER[1:]):
        another_j = below.top_j != rung.top_j
        assert rung.loss / below.loss < (1.6 if another_j else 1.22), rung


def drawn(seed, tokens, cv, drift):
    """Losses of a model in units of what its rung loses: most of it in few tokens, and more of it at times."""
    dice, sigma = random.Random(seed), math.sqrt(math.log(1 + cv * cv))
    found, level = [], 1.0
    for token in range(tokens):
        if drift and token % 125 == 0:
            level = math.exp(dice.gauss(-drift * drift / 2, drift))
        found.append(level * dice.lognormvariate(-sigma * sigma / 2, sigma))
    return found


def run(size, budget, *, tokens=4 * PERIOD, measured=None, seed=0, cv=1.5, drift=0.0, shape=1.0, level=None):
    """Lets a model answer that loses `size` a token at lambda 0.1.

    Args:
        size: In the measure of `budget`.
        budget: A token.
        tokens: To be answered with.
        measured: What an evaluation found it to be; None: there was none.
        seed: Of the losses.
        cv: Standard deviation of a token's loss, over its mean.
        drift: Standard deviation of the logarithm of a level that is drawn anew every 125 tokens.
        shape: Power by which the rungs of this model compare, where the ladder says 1.
        level: Size of the losses by token.

    Returns:
        The holder, the loss of every token, and every rung that was in force.
    """
    ladder = LADDER if measured is None else measured_ladder(LADDER, [("cache-prior 0.1", measured)])
    holder, losses = QualityHolder(ladder, budget, LONGEST, measured=measured is not None), []
    places, noise = [holder.place], drawn(seed, tokens, cv, drift)
    while len(losses) < tokens:
        span = noise[len(losses) : len(losses) + holder.stretch]
        mean = size * LADDER[holder.place].loss ** shape
        stretch = [mean * one * (1 if level is None else level(len(losses) + at)) for at, one in enumerate(span)]
        losses += stretch
        before = ladder[holder.place].loss
        assert SHORT <= holder.stretch <= LONGEST
        holder.looked(stretch)
        assert 0 <= holder.place < len(LADDER)
        known = holder._found / holder._expected
        assert ladder[holder.place].loss <= max(UP * before, budget / known / 4) * (1 + 1e-9)
        assert known * ladder[holder.place].loss <= MOST * budget * (1 + 1e-6)
        places.append(holder.place)
    return holder, losses, places


def periods(losses):
    """Mean loss of every period."""
    return [sum(losses[at : at + PERIOD]) / PERIOD for at in range(0, len(losses) - PERIOD + 1, PERIOD)]


def kept(runs):
    """Share of the periods that keep the budget within a tenth, and their mean loss."""
    found = [mean for losses in runs for mean in periods(losses)]
    return sum(abs(mean - 1) <= 0.1 for mean in found) / len(found), sum(found) / len(found)


@pytest.mark.parametrize(("size", "measured"), [(0.5, 0.5), (1.0, 1.0), (1.0, 1.4), (1.0, 0.6), (4.0, 4.0)])
def test_a_measured_model_keeps_its_budget_from_the_first_period_on(size, measured):
    share, mean = kept(run(size, 1.0, measured=measured, seed=seed, tokens=3 * PERIOD)[1] for seed in range(12))
    assert share >= 0.94 and mean == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize("size", [0.5, 1.0, 3.0])
def test_one_of_which_nothing_is_known_keeps_it_from_the_second_period_on(size):
    runs = [run(size, 1.0, seed=seed, tokens=3 * PERIOD)[1] for seed in range(12)]
    assert all(0.5 < sum(losses[:PERIOD]) / PERIOD < 1.15 for losses in runs)
    share, mean = kept(losses[PERIOD:] for losses in runs)
    assert share >= 0.94 and mean == pytest.approx(1.0, abs=0.04)


def test_on_a_series_that_drifts_it_is_kept_on_the_average_and_four_times_of_five_in_a_period():
    share, mean = kept(
        run(1.0, 1.0, measured=1.0, seed=seed, drift=0.4, shape=0.8, tokens=3 * PERIOD)[1] for seed in range(20)
    )
    assert share >= 0.8 and mean == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_it_stays_within_its_bounds(seed):
    dice = random.Random(seed)
    wild = [dice.choice([0.0, 0.01, 1.0, 50.0]) for _ in range(40)]
    run(1.0, 1.0, measured=dice.choice([None, 0.01, 100.0]), seed=seed, cv=4.0, level=lambda token: wild[token // 100])


def test_nothing_lost_climbs_to_the_top_and_is_no_error():
    holder, losses, places = run(0.0, 1.0)
    assert sum(losses) == 0.0 and places[-1] == len(LADDER) - 1 and places == sorted(places)
    assert holder.spent == 0.0


def test_it_is_deterministic_and_says_why():
    assert run(2.0, 1.0)[1:] == run(2.0, 1.0)[1:]
    assert run(2.0, 1.0)[2] != run(0.5, 1.0)[2]
    holder = QualityHolder(LADDER, 0.002, LONGEST)
    assert LADDER[holder.place].lam == START and "nothing measured" in holder.why
    holder.looked([0.0] * SHORT)
    assert LADDER[holder.place].lam > START and holder.why.startswith(LADDER[holder.place].describe())


def test_looks_become_rare_and_the_last_of_a_period_ends_it():
    holder, ends = QualityHolder(measured_ladder(LADDER, [("cache-prior 0.1", 1.0)]), 1.0, LONGEST, measured=True), []
    for _ in range(12):
        ends.append((ends[-1] if ends else 0) + holder.stretch)
        holder.looked([1.0] * holder.stretch)
    assert ends[:5] == [384, 692, 846, 923, 1000] and PERIOD * 2 in ends
    guess = QualityHolder(LADDER, 1.0, LONGEST)
    assert guess.stretch == SHORT
    guess.looked([1.0] * SHORT)
    assert guess.stretch == 2 * SHORT


@pytest.mark.parametrize(("last", "place"), [(10.0, 0), (1.0, None), (0.0, -1)])
def test_short_looks_steer_to_a_periods_very_end(last, place):
    holder = QualityHolder(measured_ladder(LADDER, [("cache-prior 0.1", 1.0)]), 1.0, LONGEST, measured=True)
    for _ in range(47):  # a chat: each of its prompts brings a look
        holder.looked([1.0] * 20, expected=1.0)
    even = holder.place
    holder.looked([last] * 20, expected=1.0)
    holder.looked([last] * 20, expected=1.0)
    wanted = {0: holder.place == 0, None: holder.place == even, -1: holder.place > even}
    assert wanted[place] and holder._done == 980, "20 tokens are left, and one look more comes in time"


def test_a_surge_is_answered_by_exact_routing_and_the_next_period_owes_a_bounded_part():
    surge = run(1.0, 1.0, measured=1.0, level=lambda token: 40.0 if 1000 <= token < 1300 else 1.0, tokens=5 * PERIOD)
    _, losses, places = surge
    before, during, owing, *after = periods(losses)
    assert 0 in places and during > 2 and before == pytest.approx(1.0, abs=0.1)
    assert 0.3 < owing < 1 - CARRY + 0.1, "exact routing first; but of what is owed more than a part is forgiven"
    assert after == pytest.approx([1.0] * 2, abs=0.15)


def test_what_was_skipped_counts_as_what_was_looked_at():
    one, other = QualityHolder(LADDER, 1.0, LONGEST), QualityHolder(LADDER, 1.0, LONGEST)
    one.looked([0.5] * 64)
    other.looked([0.5] * 16, skipped=48)
    assert (one.place, one.spent, one.tokens) == (other.place, other.spent, other.tokens)


def test_it_starts_where_an_evaluation_says():
    nothing = ["cache-prior x", "cache-prior 0", "exact", "max-rank 9", "cache-prior 2", "cache-prior"]
    assert measured_ladder(LADDER, [(name, 1.0) for name in nothing]) is None
    assert measured_ladder(LADDER, [("cache-prior 0.1", one) for one in (math.nan, -1.0, math.inf, 0.0)]) is None
    assert measured_ladder(LADDER, [("cache-prior 0.2", 1.0)]) is None, "its rung has another J"
    assert measured_ladder(ladder_for(2, late=False), [("cache-prior 0.2", 1.0)]) is not None

    found = [("cache-prior 0.02", 0.03), ("cache-prior 0.1", 0.06), ("cache-prior 0.1", 0.05)]
    ladder = measured_ladder(LADDER, found)
    loss = {rung.lam: rung.loss for rung in ladder}
    assert loss[0.1] == pytest.approx(0.06) and loss[0.02] == pytest.approx(0.03) and 0.03 < loss[0.0501] < 0.06
    assert loss[0.02] / loss[0.01] == pytest.approx(1.5), "beyond what was measured rungs compare as before"
    assert all(below.loss < rung.loss for below, rung in pairwise(ladder))

    def start(budget):
        return ladder[QualityHolder(ladder, budget, LONGEST, measured=True).place].lam

    assert (start(0.06), start(0.03), start(1e-9), start(1e9)) == (0.1, 0.02, 0.0, 1.0)


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
