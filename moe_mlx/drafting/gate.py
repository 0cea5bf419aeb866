"""Whether drafts pay where experts are read: bytes a token with them and without, measured in turn. Pure Python.

Rows that are verified together use more experts than one row does. Under a cap that may cost more bytes than the
accepted tokens save, and what it costs depends on model, text and cap: so both are tried, and the cheaper is kept for
a while. It goes by counts alone, so that the same tokens always decide the same.
"""

from __future__ import annotations

from dataclasses import dataclass

#: A trial: whether there are drafts, and for how many tokens. Before and after, so that a cache that warms up meanwhile
#: favours neither.
TRIAL = ((False, 8), (True, 16), (False, 8))
#: Tokens that a decision holds: the first, and the most, to which it doubles while trials confirm it.
FIRST_HOLD, LONGEST_HOLD = 128, 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial measured.

    Attributes:
        drafted: Expert bytes read a token, with drafts.
        plain: The same without.
    """

    drafted: float
    plain: float

    @property
    def pays(self) -> bool:
        """Whether drafts cost no more bytes."""
        return self.drafted <= self.plain


class Gate:
    """Opens and closes; asked before each step, told of the tokens and bytes of each phase.

    Attributes:
        open: What the latest trial decided; open before the first.
        verdict: What it measured; None before the first is over.
        trials: Those that are over.
    """

    def __init__(self) -> None:
        self.open, self.trials = True, 0
        self.verdict: Verdict | None = None
        self._hold = FIRST_HOLD
        self._try()

    @classmethod
    def held_open(cls) -> Gate:
        """Returns one that lets every draft be made, for measurements."""
        gate = cls()
        gate._phases = [(True, 1 << 62)]
        return gate

    @property
    def drafting(self) -> bool:
        """Whether the tokens to come are to be drafted: as decided, or because it is tried."""
        return self._phases[0][0]

    @property
    def left(self) -> int:
        """Tokens until the phase is over, at least 1."""
        return self._phases[0][1]

    def took(self, tokens: int, nbytes: int) -> None:
        """Notes what came of the phase, or of a part of it.

        Args:
            tokens: Made in it.
            nbytes: Bytes of experts that were read for them.
        """
        drafting, left = self._phases[0]
        self._tokens[drafting] += tokens
        self._nbytes[drafting] += nbytes
        if tokens < left:
            self._phases[0] = (drafting, left - tokens)
            return
        del self._phases[0]
        if self._phases:
            return
        if self._trying:
            self._decide()
        else:
            self._try()

    def _try(self) -> None:
        self._trying, self._phases = True, list(TRIAL)
        self._tokens, self._nbytes = {False: 0, True: 0}, {False: 0, True: 0}

    def _decide(self) -> None:
        rates = {kind: self._nbytes[kind] / self._tokens[kind] for kind in (False, True)}
        self.verdict = Verdict(rates[True], rates[False])
        confirmed = self.trials > 0 and self.verdict.pays == self.open
        self._hold = min(2 * self._hold, LONGEST_HOLD) if confirmed else FIRST_HOLD
        self.open, self.trials = self.verdict.pays, self.trials + 1
        self._trying, self._phases = False, [(self.open, self._hold)]
