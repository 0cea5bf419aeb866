"""Drafting for the answers of one model: who guesses, how many at a time, whether it pays, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx import nn

from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.drafting.counts import DraftCounts, DraftSummary
from moe_mlx.drafting.drafter import Drafter
from moe_mlx.drafting.gate import Gate
from moe_mlx.errors import UsageError
from moe_mlx.loading.runtime import Runtime
from moe_mlx.routing.names import EXACT


def logits_only(model: nn.Module, tokens: mx.array, cache: list[Any]) -> tuple[mx.array, None]:
    """Calls a model as mlx-lm's loops do."""
    return model(tokens, cache=cache), None


@dataclass(eq=False)
class Drafting:
    """What drafts for a model, over all its answers.

    Attributes:
        runtime: Of the model that decides.
        drafter: Who guesses.
        count: Tokens guessed at a time.
        call: Feeds the model tokens `[1, L]` and a cache: logits `[1, L, V]`, and what hidden states the drafter reads.
        gate: Whether it pays.
        counts: What came of it so far.
    """

    runtime: Runtime
    drafter: Drafter
    count: int
    call: Callable[[nn.Module, mx.array, list[Any]], tuple[mx.array, mx.array | None]] = logits_only
    gate: Gate = field(default_factory=Gate)
    counts: DraftCounts = field(default_factory=DraftCounts)

    def check_routing(self, asked: Mapping[str, Any]) -> None:
        """Refuses changes of the routing that would hold for undrafted tokens alone.

        Args:
            asked: As for `Runtime.set_routing`.

        Raises:
            UsageError: they are not exact.
        """
        for name in ("routing", "light"):
            if asked.get(name, EXACT) != EXACT:
                raise UsageError(
                    f"drafts are verified with exact routing, and {name} {asked[name]} would hold for some tokens and "
                    "not for others: keep it exact, or load without the draft model"
                )

    def bytes_read(self) -> int:
        """Returns bytes of experts that the model's steps have read, prompts included."""
        stats = self.runtime.stats
        return stats.decode.bytes_read + stats.prefill.bytes_read

    def verified(self, drafted: int, accepted: int, step: PhaseTotals) -> None:
        """Notes a round."""
        self.counts += DraftCounts(1, drafted, accepted, step)

    def since(self, before: DraftCounts) -> DraftSummary:
        """Returns what it was to an answer, from the counts when that began."""
        return DraftSummary(self.counts - before, self.gate.open, self.gate.verdict)
