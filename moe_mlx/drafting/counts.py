"""What drafting came to: rounds, drafts, those accepted, and what verifying them read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.drafting.gate import Verdict
from moe_mlx.system.sizes import show_bytes


@dataclass(frozen=True, slots=True)
class DraftCounts:
    """Running counts of a model's drafts.

    Attributes:
        rounds: Steps that verified drafts.
        drafted: Tokens guessed.
        accepted: Those of them that the model made too.
        verified: Counters of those steps, which the ledger has among the prompts': they have several rows.
    """

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    verified: PhaseTotals = field(default_factory=PhaseTotals)

    @property
    def rejected(self) -> int:
        """Drafts that the model did not make."""
        return self.drafted - self.accepted

    def of_answer(self, decode: PhaseTotals, prompt: PhaseTotals) -> tuple[PhaseTotals, PhaseTotals]:
        """Returns an answer's decode and prompt as it was made: verifying is decode, though it has several rows."""
        return decode + self.verified, prompt - self.verified

    def __add__(self, other: DraftCounts) -> DraftCounts:
        return DraftCounts(
            self.rounds + other.rounds,
            self.drafted + other.drafted,
            self.accepted + other.accepted,
            self.verified + other.verified,
        )

    def __sub__(self, other: DraftCounts) -> DraftCounts:
        return DraftCounts(
            self.rounds - other.rounds,
            self.drafted - other.drafted,
            self.accepted - other.accepted,
            self.verified - other.verified,
        )


def short(accepted: int, drafted: int, open: bool) -> str:
    """Returns drafts in a few words, for a line of figures."""
    return f"drafts {accepted:,}/{drafted:,}{'' if open else ' (off)'}"


@dataclass(frozen=True, slots=True)
class DraftSummary:
    """What drafting was to one answer.

    Attributes:
        counts: Of the answer.
        open: Whether the gate lets drafts be made, at its end.
        verdict: What the gate's latest trial measured, which may be of an answer before.
    """

    counts: DraftCounts
    open: bool
    verdict: Verdict | None

    def as_dict(self) -> dict[str, Any]:
        """Returns it for `--json`."""
        counts = self.counts
        return {
            "rounds": counts.rounds,
            "drafted": counts.drafted,
            "accepted": counts.accepted,
            "verified_rows": counts.verified.tokens,
            "verified_bytes_read": counts.verified.bytes_read,
            "gate": "open" if self.open else "closed",
            "bytes_per_token_drafted": None if self.verdict is None else self.verdict.drafted,
            "bytes_per_token_plain": None if self.verdict is None else self.verdict.plain,
        }

    def describe(self) -> str:
        """Returns it in words."""
        found = f" ({self.gate_words})" if self.gate_words else ""
        return f"accepted {self.counts.accepted:,} of {self.counts.drafted:,} drafts{found}"

    @property
    def short(self) -> str:
        """The same in a few words."""
        return short(self.counts.accepted, self.counts.drafted, self.open)

    @property
    def gate_words(self) -> str:
        """What the gate has found, in words; "" before its first trial is over."""
        if self.verdict is None:
            return ""
        rates = f"{show_bytes(int(self.verdict.drafted))} a token with, {show_bytes(int(self.verdict.plain))} without"
        return f"{'open' if self.open else 'drafts are off'}: {rates}"
