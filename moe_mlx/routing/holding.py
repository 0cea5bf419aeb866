"""Holds a price by moving along a ladder of settings: a quality by what audits found, a speed by the clock.

Quality, in ten lines (docs/holding.md). A *look* brings the loss of every token since the one before.

1. L = losses of the latest `WINDOW` tokens, summed; n = how many those are; B = the budget a token.
2. Each rung r of the ladder has an expected loss e[r] in units u of lambda 0.1's. Where `moe-mlx eval` has measured u,
   the start is the highest rung with u * e[r] <= B; else it is rung `START`, and u = B / e[start] is a guess.
3. It is learned: s = (L + P * u * e[start]) / (sum of e over the same tokens + P * e[start]): the start counts for P
   tokens, `KNOWN` where it was measured, else `GUESSED`.
4. What is left or owed is spent over the next `HORIZON` tokens: a = B + (B * n - L) / `HORIZON`, at most `MOST` * B.
5. The highest rung with s * e[r] <= a is next, but at most `UP` above the present one; it may be any below.
6. Where even the first is above a, it is exact routing.
7. A look comes after `SHORT` tokens; after a look that found the window within its budget, after `LONG`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from moe_mlx.routing.ladder import START, Rung

#: Tokens that the budget is held over, and in which a deviation is made up for.
WINDOW, HORIZON = 1000, 384
#: Budgets a token that may be spent at most, where much was left; rungs up at once.
MOST, UP = 1.5, 2
#: Tokens that the start counts for.
KNOWN, GUESSED = 256, 64
#: Tokens between two looks.
SHORT, LONG = 64, 128


class QualityHolder:
    """The quality's rule; deterministic: the same losses give the same rungs.

    Attributes:
        budget: Loss a token.
        place: Number of the rung in force.
        stretch: Tokens until the next look.
        spent: Mean loss of the tokens in the window; like `why` read by other threads.
        why: Why that rung, in a line.
    """

    def __init__(self, ladder: Sequence[Rung], budget: float, unit: float | None = None) -> None:
        """Begins.

        Args:
            ladder: From exact routing up.
            budget: Loss a token.
            unit: What lambda 0.1 was measured to lose with this model; None where nobody has.
        """
        self.ladder, self.budget, self.stretch, self.spent = tuple(ladder), budget, SHORT, 0.0
        self._seen: deque[tuple[float, float]] = deque(maxlen=WINDOW)  # loss, and what its rung was expected to lose
        if unit is None:
            self.place, counts, known = min(START, len(self.ladder) - 1), GUESSED, "nothing measured of this model yet"
            unit = budget / self.ladder[self.place].loss
        else:
            self.place, counts, known = self._highest(unit, budget, len(self.ladder)), KNOWN, "by what `eval` measured"
        begun = max(self.ladder[self.place].loss, self.ladder[1].loss)
        self._before = counts * unit * begun, counts * begun
        self.why = f"starts at {self.ladder[self.place].describe()}, {known}"

    def _highest(self, size: float, allowed: float, below: int) -> int:
        """Returns the highest rung under `below` that is expected to lose no more than is allowed."""
        fit = [place for place, rung in enumerate(self.ladder[:below]) if size * rung.loss <= allowed]
        return max(fit, default=0)

    @property
    def tokens(self) -> int:
        """Tokens in the window."""
        return len(self._seen)

    def looked(self, losses: Sequence[float], skipped: int = 0, expected: float | None = None) -> int:
        """Takes what a look found and returns the next rung.

        Args:
            losses: Of the tokens looked at, at least one.
            skipped: Tokens before them that nobody looked at: they count as these did.
            expected: What their rungs were expected to lose a token; None: they were all under `place`.
        """
        expected = self.ladder[self.place].loss if expected is None else expected
        self._seen.extend([(sum(losses) / len(losses), expected)] * skipped)
        self._seen.extend((loss, expected) for loss in losses)
        lost = sum(loss for loss, _ in self._seen)
        units = sum(unit for _, unit in self._seen)
        self.spent = lost / self.tokens
        size = (lost + self._before[0]) / (units + self._before[1])
        left = self.budget * self.tokens - lost
        allowed = min(MOST * self.budget, self.budget + left / HORIZON)
        self.place = self._highest(size, allowed, self.place + UP + 1)
        self.stretch = LONG if left >= 0 else SHORT
        self.why = (
            f"{self.ladder[self.place].describe()}: {self.spent:.2g} a token spent over {self.tokens}, "
            f"{max(0.0, allowed):.2g} may be next, {size * self.ladder[self.place].loss:.2g} expected"
        )
        return self.place


#: Tokens that a speed is measured over; how much faster than wanted it must be before less is lost; how much slower
#: before two rungs are taken at once; tokens that a rung's own speed is remembered for.
STRIDE, FASTER, SLOWER, REMEMBERED = 16, 1.1, 0.8, 512


class Pace:
    """The speed's rule: up a rung where it was too slow, down one where it was faster than it need be.

    Looks and all else that a user waits for between two tokens counts; prompts do not.

    Attributes:
        wanted: Tokens a second.
        place: Number of the rung that is next.
        rate: Tokens a second of the latest stride; 0 before there is one.
        why: Why that rung, in a line.
    """

    def __init__(self, wanted: float) -> None:
        self.wanted, self.place, self.rate, self.why = wanted, 0, 0.0, "no speed measured yet"
        self._since: float | None = None
        self._count = self._tokens = 0
        self._rates: dict[int, tuple[float, int]] = {}  # rung -> its latest speed, and at which token that was

    def pause(self) -> None:
        """Begins a new stride with the next token."""
        self._since = None

    def token(self, now: float, place: int, most: int) -> bool:
        """Counts a token that is about to be computed.

        Args:
            now: Seconds, of a clock that only goes forward.
            place: The rung in force.
            most: The highest that may be taken.

        Returns:
            Whether `place` is to be taken instead.
        """
        self._tokens += 1
        if self._since is None:
            self._since, self._count = now, 0
            return False
        self._count += 1
        if self._count < STRIDE or now <= self._since:
            return False
        rate, self._since, self._count = self._count / (now - self._since), now, 0
        self.rate, self._rates[place] = rate, (rate, self._tokens)
        self.place = place
        if rate < self.wanted:
            self.place = place + (2 if rate < SLOWER * self.wanted else 1)
        elif rate > FASTER * self.wanted and place > 0 and not self._was_too_slow(place - 1):
            self.place = place - 1
        self.place = min(self.place, most)
        held = " (all that the ladder or the quality allows)" if rate < self.wanted and place >= most else ""
        self.why = f"{rate:.1f} tok/s of {self.wanted:g} wanted{held}"
        return self.place != place

    def _was_too_slow(self, place: int) -> bool:
        rate, token = self._rates.get(place, (math.inf, 0))
        return rate < self.wanted and self._tokens - token < REMEMBERED
