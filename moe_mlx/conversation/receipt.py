"""The receipt of one answer: what it took and what it changed, from the running totals before and after it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from moe_mlx.counts.totals import NAMES, PhaseTotals
from moe_mlx.system.sizes import show_bytes

if TYPE_CHECKING:
    from moe_mlx.conversation.audit import AuditSummary
    from moe_mlx.drafting.counts import DraftSummary


def unused(decode: PhaseTotals, tokens: int, drafts: DraftSummary | None) -> int:
    """Returns rows of an answer's steps whose token nobody took, but for the drafts that were rejected."""
    return max(0, decode.tokens - tokens - (0 if drafts is None else drafts.counts.rejected))


#: What `--json` says of the prompt.
_OF_PROMPT = ("tokens", "hits", "misses", "bytes_read")


@dataclass(frozen=True, slots=True)
class Receipt(PhaseTotals):
    """What one answer took: every counter of its decode steps, `tokens` only of those whose token was used.

    Attributes:
        routing: The routing in force, in words.
        discarded_steps: Steps that mlx-lm ran ahead and nobody used; their reads are counted here all the same.
        prompt: The counters of the prompt.
        audit: What an audit found, if there was one.
        warmed: Experts that warm-up had read before it, since the answer before; in no other count.
        profile: Name of the profile whose history is kept; empty for none.
        drafts: What drafting came to, where tokens were drafted; the steps that verified are in the counters here.
    """

    routing: str = ""
    discarded_steps: int = 0
    prompt: PhaseTotals = field(default_factory=PhaseTotals)
    audit: AuditSummary | None = None
    warmed: int = 0
    profile: str = ""
    drafts: DraftSummary | None = None

    @classmethod
    def of(
        cls,
        decode: PhaseTotals,
        prompt: PhaseTotals,
        discarded: int,
        routing: str,
        audit: AuditSummary | None = None,
        warmed: int = 0,
        profile: str = "",
        drafts: DraftSummary | None = None,
    ) -> Receipt:
        """Makes a receipt of one answer's own totals; `routing` as `RoutingSettings.describe` says it."""
        counts = {name: getattr(decode, name) for name in NAMES}
        counts["tokens"] -= discarded + (0 if drafts is None else drafts.counts.rejected)
        return cls(
            **counts,
            routing=routing,
            discarded_steps=discarded,
            prompt=prompt,
            audit=audit,
            warmed=warmed,
            profile=profile,
            drafts=drafts,
        )

    @property
    def held(self) -> str:
        """The account of a price that was held, in words; "" where a routing stayed."""
        return "" if self.audit is None else self.audit.held

    @property
    def crossings(self) -> int:
        """Arrays that went between the model's stream and a fetch's, there and back, where decode ran in the graph."""
        return 2 * (self.waits - self.read_backs)

    def as_dict(self) -> dict[str, Any]:
        """Returns every counter, the shares, and what there is beside, for `--json`."""
        return {
            **PhaseTotals.as_dict(self),
            **{f"prompt_{name}": getattr(self.prompt, name) for name in _OF_PROMPT},
            "routing": self.routing,
            "discarded_steps": self.discarded_steps,
            "crossings": self.crossings,
            "audit": None if self.audit is None else asdict(self.audit),
            "warmed": self.warmed,
            "profile": self.profile or None,
            "drafts": None if self.drafts is None else self.drafts.as_dict(),
        }

    def describe(self) -> str:
        """Returns one line for people."""
        parts = [
            f"{self.tokens} tokens",
            f"hit {self.hit_rate:.1%} ({self.misses:,} of {self.hits + self.misses:,} missed)",
            f"read {show_bytes(self.bytes_read)}",
            f"swapped {self.swapped_share:.1%}",
            f"weight moved {self.weight_moved:.2f}",
            self.routing,
        ]
        if self.hinted:
            parts.append(
                f"prefetched {self.hinted:,} ({self.hint_hits:,} used, {show_bytes(self.wasted_bytes)} for nothing)"
            )
        if self.late:
            parts.append(
                f"late {self.late:,} of {self.hits + self.misses:,} (weight {self.late_weight:.2f}, "
                f"{self.waits_saved:,} waits saved)"
            )
        if self.coarse or self.promotions:
            parts.append(
                f"coarse {self.coarse:,} of {self.hits + self.misses:,} (weight {self.coarse_weight:.2f}, "
                f"{self.promotions:,} promoted; read {show_bytes(self.coarse_bytes)} coarse, "
                f"{show_bytes(self.rest_bytes)} rest, {show_bytes(self.whole_bytes)} whole)"
            )
        if (steps := self.tokens + self.discarded_steps) and self.waits:
            crossed, named = (self.read_backs, "read-backs") if self.read_backs else (self.crossings, "crossings")
            parts.append(f"{crossed / steps:g} {named} a token")
        if self.warmed:
            parts.append(f"warmed {self.warmed} experts")
        if self.profile:
            parts.append(f"profile {self.profile}")
        if self.drafts is not None:
            parts.append(self.drafts.describe())
        if self.audit is not None:
            parts.append(self.audit.describe())
        return ", ".join(parts)
