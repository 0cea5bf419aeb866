"""What a held price stands on and comes to: the rungs of a model, what is known of their loss, an answer's account."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moe_mlx.conversation.audit import AuditSummary
from moe_mlx.errors import ExpertReadError, UsageError
from moe_mlx.history.verdicts import read_verdicts
from moe_mlx.loading.runtime import Runtime
from moe_mlx.routing.holding import KNOWN
from moe_mlx.routing.ladder import Rung, ladder_for, measured_ladder
from moe_mlx.routing.names import EXACT
from moe_mlx.routing.price import KL, Price, Quality
from moe_mlx.store.identity import identity_of
from moe_mlx.system.sizes import show_bytes


@dataclass(frozen=True, slots=True)
class HeldSummary(AuditSummary):
    """What holding a price came to in one answer.

    Attributes:
        price: What was asked for, in words.
        measure: What the loss is measured by; "" where no quality was asked for.
        budget: Loss a token that may be spent.
        spent: Loss a token that was, over the tokens audited.
        unseen: Tokens that nobody has looked at, at the answer's end.
        spent_error: Standard error of `spent` as the loss of all, which these may differ from.
        settings: Each setting that was used, and for how many tokens, in the order of the ladder.
        why: Why the last one.
        seconds: What looking back took.
    """

    price: str = ""
    measure: str = ""
    budget: float = 0.0
    spent: float = 0.0
    unseen: int = 0
    spent_error: float = 0.0
    settings: tuple[tuple[str, int], ...] = ()
    why: str = ""
    seconds: float = 0.0

    @property
    def held(self) -> str:
        """The account of the price."""
        return self.describe()

    def describe(self) -> str:
        """Returns the account in a few words."""
        used = ", ".join(f"{name} for {tokens}" for name, tokens in self.settings)
        parts = [self.price]
        if self.measure:
            shown = f"spent {self.spent:.2g}" if self.measure == KL else f"kept {1 - self.spent:.2%}"
            if self.spent_error:
                shown += f" ± {self.spent_error:.1g}" if self.measure == KL else f" ± {self.spent_error:.2%}"
            parts.append(shown)
            unseen = f", {self.unseen} not" if self.unseen else ""
            parts.append(f"{self.tokens} tokens audited{unseen}, {show_bytes(self.bytes_read)} read for it")
        return "; ".join([*parts, used] if used else parts)


def unseen_error(variance: float, seen: int, unseen: int) -> float:
    """Returns the standard error of a mean over tokens of which some were not seen; 0 where all were, or none.

    Args:
        variance: Of the loss of a token, among those seen.
        seen: Tokens seen.
        unseen: Tokens that were not.
    """
    if not seen:
        return 0.0
    return math.sqrt(max(0.0, variance) * unseen * (1 + unseen / seen)) / (seen + unseen)


def ladder_of(runtime: Runtime, price: Price) -> tuple[Rung, ...]:
    """Returns the rungs for a model.

    Raises:
        UsageError: its routing cannot be moved.
    """
    if not runtime.layers.routed:
        family = runtime.config.get("model_type", "this family")
        raise UsageError(
            f"{price.describe()} cannot be held: the router of {family} is not known, so it is routed exactly "
            "(moe-mlx families)"
        )
    top_k = max(layer.top_k for layer in runtime.source.layers)
    if top_k == 1:
        raise UsageError(f"{price.describe()} cannot be held: a model with top-1 is always routed exactly")
    fine = price.speed is None
    return ladder_for(top_k, late=not fine and not runtime.layers.why_waits, fine=fine)


def measured_rungs(runtime: Runtime, ladder: tuple[Rung, ...], quality: Quality) -> tuple[Rung, ...] | None:
    """Returns the rungs with the losses that evaluations of this model found; None where there was none.

    One of fewer tokens than it would count for is none.
    """
    try:
        known = read_verdicts(identity_of(runtime.source))
    except ExpertReadError:  # the step that needs that expert says so
        return None
    losses = [
        (verdict.routing, verdict.kl if quality.measure == KL else 1 - verdict.agreement)
        for verdict in known
        if verdict.light == EXACT and verdict.tokens >= KNOWN
    ]
    return measured_ladder(ladder, losses)
