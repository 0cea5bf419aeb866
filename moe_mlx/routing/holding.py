"""Holds a price by moving along a ladder of settings: a quality by what audits found, a speed by the clock.

Quality, in ten lines (docs/holding.md). A *look* brings the loss of every token since the one before.

1. The budget is B a token; it is kept over each period of `PERIOD` tokens.
2. Rung r of the ladder is expected to lose e[r]. Where `moe-mlx eval` has measured the model, e is what it found, and
   the start is the highest rung with e[r] <= B. Else it is lambda `START`, and e is scaled so that this loses B.
3. Looks correct the scale: s = losses found / losses expected, those of a token half as heavy `RECENT` tokens later.
   The start counts as `KNOWN` tokens where it was measured, else as `GUESSED`. Exact routing brings s back to that of
   the start, by half in `SHORTLY` tokens.
4. a = B; where the period would then end more than `SLACK` of its budget off, what ends it there: 0 to `MOST` * B.
5. The highest rung with s * e[r] <= a is next; its e is at most `UP` times the present one's, or a quarter of B.
6. Where even the first is above a, it is exact routing.
7. The next look comes with the conversation's next prompt; else after `SHARE` of the tokens left in the period, at
   least `SHORT`, at most as many as a look may have; at its end where fewer than `LAST` would be left. From a guess,
   after `SHORT`, then twice that, and so on.
8. What a period leaves or owes goes into the next one, at most `CARRY` of its budget.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from moe_mlx.routing.ladder import START, Rung

#: Tokens that the budget is kept over, and the share of its budget that one may hand to the next.
PERIOD, CARRY = 1000, 0.25
#: Share of a period's budget that its end may be off before it is corrected: what is saved by chasing no chance.
SLACK = 0.03
#: Budgets a token that may be spent at most, where much was left; how many times more may be expected at once.
MOST, UP = 4.0, 4.0
#: Tokens that the start counts for, and after which what was found weighs half: of lossy routing, of exact.
KNOWN, GUESSED, RECENT, SHORTLY = 256, 64, 512, 128
#: Tokens between two looks at least, the share of the period's rest, and a rest that is not parted.
SHORT, SHARE, LAST = 64, 0.5, 64


class QualityHolder:
    """The quality's rule; deterministic: the same losses give the same rungs.

    Attributes:
        budget: Loss a token.
        place: Number of the rung in force.
        stretch: Tokens until the next look.
        spent: Mean loss of the latest `PERIOD` tokens; like `why` read by other threads.
        why: Why that rung, in a line.
    """

    def __init__(self, ladder: Sequence[Rung], budget: float, longest: int, *, measured: bool = False) -> None:
        """Begins.

        Args:
            ladder: From exact routing up.
            budget: Loss a token.
            longest: Tokens that a look may have, 128 or more.
            measured: Whether the rungs' losses are those of this model; else only how they compare is known.
        """
        self.ladder, self.budget, self.longest, self.spent = tuple(ladder), budget, longest, 0.0
        self._recent: deque[float] = deque(maxlen=PERIOD)
        self._done, self._left = 0, PERIOD * budget
        self._patience = longest if measured else SHORT
        size, tokens, why = 1.0, KNOWN, "by what `eval` measured"
        if not measured:
            start = self.ladder[max((place for place, rung in enumerate(self.ladder) if rung.lam <= START), default=1)]
            size, tokens, why = budget / start.loss, GUESSED, "nothing measured of this model yet"
        self.place = self._highest(size, budget)
        self._begun, self._expected = size, tokens * max(self.ladder[self.place].loss, self.ladder[1].loss)
        self._found = self._begun * self._expected
        self.stretch = self._patience
        self.why = f"starts at {self.ladder[self.place].describe()}, {why}"

    def _highest(self, size: float, allowed: float, most: float = math.inf) -> int:
        """Returns the highest rung, of a loss up to `most`, that is expected to lose no more than is allowed."""
        fits = (size * rung.loss <= allowed * (1 + 1e-9) and rung.loss <= most for rung in self.ladder)
        return max((place for place, fit in enumerate(fits) if fit), default=0)

    @property
    def tokens(self) -> int:
        """Tokens that `spent` is the mean of."""
        return len(self._recent)

    def looked(self, losses: Sequence[float], skipped: int = 0, expected: float | None = None) -> int:
        """Takes what a look found and returns the next rung.

        Args:
            losses: Of the tokens looked at, at least one.
            skipped: Tokens before them that nobody looked at: they count as these did.
            expected: What their rungs lose a token by the ladder, on the average; None: they were all under `place`.
        """
        expected = self.ladder[self.place].loss if expected is None else expected
        mean, tokens = sum(losses) / len(losses), len(losses) + skipped
        self._recent.extend([mean] * skipped)
        self._recent.extend(losses)
        self.spent = sum(self._recent) / self.tokens
        fade = 0.5 ** (tokens / (RECENT if expected > 0 else SHORTLY))
        if expected > 0:
            self._found = self._found * fade + mean * tokens
            self._expected = self._expected * fade + expected * tokens
        else:  # exact routing tells nothing of the others: what made it necessary is forgotten
            self._found = self._found * fade + self._begun * self._expected * (1 - fade)
        size = self._found / self._expected
        self._pass(tokens, mean)
        rest, left = PERIOD - self._done, self._left
        allowed = self._allowed(left, rest)
        if rest < min(SHORT, tokens):  # the next look may lie in the next period: nothing is made up for in this one
            rest, left = rest + PERIOD, left + PERIOD * self.budget
            allowed = min(allowed, self._allowed(left, rest))
        most = max(UP * self.ladder[self.place].loss, self.budget / size / 4) if size else math.inf
        self.place = self._highest(size, allowed, most)
        if tokens >= SHORT:  # looks that ride on a prompt may be of few tokens
            self._patience = min(self.longest, 2 * self._patience)
        self.stretch = self._next(rest)
        self.why = (
            f"{self.ladder[self.place].describe()}: {self.spent:.2g} a token over {self.tokens}, {allowed:.2g} may "
            f"be for the next {rest}, {size * self.ladder[self.place].loss:.2g} expected"
        )
        return self.place

    def _allowed(self, left: float, rest: int) -> float:
        """Returns the loss a token with which so many end where so much is left; the budget where that is near."""
        slack = SLACK * PERIOD * self.budget
        allowed = max(min(self.budget, (left + slack) / rest), (left - slack) / rest)
        return min(MOST * self.budget, max(0.0, allowed))

    def _next(self, rest: int) -> int:
        """Returns how many tokens come before the next look, of those that are left."""
        stretch = min(self._patience, max(SHORT, int(SHARE * rest)))
        return rest if rest - stretch < LAST and rest <= self._patience else stretch

    def _pass(self, tokens: int, mean: float) -> None:
        """Takes what tokens lost from the period's budget; at its end the next one begins."""
        self._done += tokens
        self._left -= tokens * mean
        while self._done >= PERIOD:
            bound = CARRY * PERIOD * self.budget
            self._done -= PERIOD
            self._left = min(bound, max(-bound, self._left)) + PERIOD * self.budget


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
