"""The receipt of one answer: what it took and what it changed, from the running totals before and after it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from moe_mlx.counts.ledger import Stats
from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.system.sizes import show_bytes

if TYPE_CHECKING:
    from moe_mlx.conversation.audit import AuditSummary


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Running totals at one moment."""

    decode: PhaseTotals
    prefill: PhaseTotals
    discarded_steps: int

    @classmethod
    def of(cls, stats: Stats) -> Snapshot:
        """Takes one."""
        return cls(stats.decode, stats.prefill, stats.discarded_steps)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one answer took. Counts are of decode steps unless they say prompt.

    Attributes:
        routing: The routing in force, in words.
        tokens: Decode steps whose token was used.
        discarded_steps: Steps that mlx-lm ran ahead and nobody used; their reads are counted here all the same.
        hits: Chosen experts that were resident.
        misses: Chosen experts that had to be read.
        bytes_read: For those.
        swapped: Chosen experts that exact routing would not have chosen.
        weight_moved: Exact router weight of the displaced, summed.
        read_backs: Times a layer's routing was read back to Python.
        prompt_tokens: Tokens of the prompt that were computed.
        prompt_hits: Experts a prompt's chunk needed and found.
        prompt_misses: Experts a prompt's chunk needed and read.
        prompt_bytes_read: For those.
        audit: What an audit found, if there was one.
        hinted: Experts whose read ahead was begun; none without prefetch.
        hint_hits: Misses that one of those served.
        wasted_bytes: Bytes read ahead for nothing; beside `bytes_read`.
        warmed: Experts that warm-up had read before it, since the answer before; in no other count.
    """

    routing: str
    tokens: int
    discarded_steps: int
    hits: int
    misses: int
    bytes_read: int
    swapped: int
    weight_moved: float
    read_backs: int
    prompt_tokens: int
    prompt_hits: int
    prompt_misses: int
    prompt_bytes_read: int
    audit: AuditSummary | None = None
    hinted: int = 0
    hint_hits: int = 0
    wasted_bytes: int = 0
    warmed: int = 0

    @classmethod
    def between(cls, before: Snapshot, after: Snapshot, routing: str, audit: AuditSummary | None = None) -> Receipt:
        """Makes the receipt of what ran between two snapshots; `routing` as `RoutingSettings.describe` says it."""
        discarded = after.discarded_steps - before.discarded_steps
        return cls.of(after.decode - before.decode, after.prefill - before.prefill, discarded, routing, audit)

    @classmethod
    def of(
        cls, decode: PhaseTotals, prefill: PhaseTotals, discarded: int, routing: str,
        audit: AuditSummary | None = None, warmed: int = 0,
    ) -> Receipt:  # fmt: skip
        """Makes a receipt of one answer's own totals."""
        return cls(
            routing=routing, tokens=decode.tokens - discarded, discarded_steps=discarded, hits=decode.hits,
            misses=decode.misses, bytes_read=decode.bytes_read, swapped=decode.swapped,
            weight_moved=decode.weight_moved, read_backs=decode.read_backs, prompt_tokens=prefill.tokens,
            prompt_hits=prefill.hits, prompt_misses=prefill.misses, prompt_bytes_read=prefill.bytes_read, audit=audit,
            hinted=decode.hinted, hint_hits=decode.hint_hits, wasted_bytes=decode.wasted_bytes,
            warmed=warmed,
        )  # fmt: skip

    @property
    def hit_rate(self) -> float:
        """Hits as a share of hits and misses; 0 where nothing was chosen."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 0.0

    @property
    def swapped_share(self) -> float:
        """Swapped as a share of hits and misses; 0 where nothing was chosen."""
        return self.swapped / (self.hits + self.misses) if self.hits + self.misses else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns every field and both shares, for `--json`."""
        return {**asdict(self), "hit_rate": self.hit_rate, "swapped_share": self.swapped_share}

    def describe(self) -> str:
        """Returns one line for people."""
        parts = [
            f"{self.tokens} tokens", f"hit {self.hit_rate:.1%} ({self.misses:,} of {self.hits + self.misses:,} missed)",
            f"read {show_bytes(self.bytes_read)}", f"swapped {self.swapped_share:.1%}",
            f"weight moved {self.weight_moved:.2f}", self.routing,
        ]  # fmt: skip
        if self.hinted:
            parts.append(
                f"ahead {self.hinted:,} ({self.hint_hits:,} used, {show_bytes(self.wasted_bytes)} for nothing)"
            )
        if self.warmed:
            parts.append(f"warmed {self.warmed} experts")
        if self.audit is not None:
            parts.append(self.audit.describe())
        return ", ".join(parts)
