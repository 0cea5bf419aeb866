"""The settings that a held price chooses among, from exact routing up: each loses more and reads or waits less.

A rung's `loss` is what it is expected to lose a token, in units of Cache-Prior at lambda 0.1: its shape was measured on
two models (docs/measurements.md), its size is learned from what was audited of the model that runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from moe_mlx.routing.names import DEFAULT_BEYOND, EXACT, LATE

#: lambda -> expected loss.
_LOSSES = {
    0.002: 0.02,
    0.005: 0.05,
    0.01: 0.1,
    0.02: 0.2,
    0.03: 0.3,
    0.05: 0.5,
    0.07: 0.7,
    0.1: 1.0,
    0.14: 1.5,
    0.2: 2.2,
    0.28: 3.5,
    0.4: 5.5,
    0.6: 8.0,
    0.8: 10.0,
    1.0: 12.0,
}


@dataclass(frozen=True, slots=True)
class Rung:
    """One setting.

    Attributes:
        lam: lambda of Cache-Prior; 0 is exact routing.
        loss: Expected, relative to lambda 0.1.
        top_j: J; None for the model's default.
        beyond: Light experts beyond it are late; None: every expert is waited for.
    """

    lam: float
    loss: float
    top_j: int | None = None
    beyond: float | None = None

    def changes(self) -> dict[str, Any]:
        """Returns it as `RoutingSettings` has it."""
        return {
            "routing": "cache-prior" if self.lam else "exact",
            **({"route_lambda": self.lam} if self.lam else {}),
            "route_top_j": self.top_j,
            "light": EXACT if self.beyond is None else LATE,
            "light_beyond": DEFAULT_BEYOND if self.beyond is None else self.beyond,
        }

    def describe(self) -> str:
        """Returns it in a word or two."""
        parts = [f"lambda {self.lam:g}"] if self.lam else []
        parts += [f"J {self.top_j}"] if self.top_j is not None else []
        parts += [f"late {self.beyond:g}"] if self.beyond is not None else []
        return " ".join(parts) or "exact"


#: Late experts beyond a share: expected loss alone, and beside a lambda.
_LATE = {0.75: 0.3, 0.6: 0.5}
#: Up to this lambda J is the model's default, above it 1: the second of an unmoved pair keeps misses that cost more.
_GUARDED = 0.1
#: Where a quality begins, before anything is known of the model.
START = 4


def ladder_for(top_k: int, *, late: bool) -> tuple[Rung, ...]:
    """Returns the rungs for a model, from exact routing up.

    Args:
        top_k: The model's.
        late: Whether light experts may be late. They save waits, not bytes: so for a speed.
    """
    lambdas = [Rung(lam, loss, None if lam <= _GUARDED or top_k <= 2 else 1) for lam, loss in _LOSSES.items()]
    if not late:
        return (Rung(0.0, 0.0), *lambdas)
    alone = [Rung(0.0, loss, beyond=beyond) for beyond, loss in _LATE.items()]
    both = [Rung(rung.lam, rung.loss + _LATE[0.6], rung.top_j, 0.6) for rung in lambdas]
    return (Rung(0.0, 0.0), *alone, *both)


def unit_of(losses: Iterable[tuple[str, float]]) -> float | None:
    """Returns what lambda 0.1 loses a token, by the largest of what was measured; None where nothing was.

    Args:
        losses: Routings as an evaluation names them ("cache-prior 0.1"), and their losses.
    """
    found = []
    for routing, loss in losses:
        unit = next((unit for lam, unit in _LOSSES.items() if routing == f"cache-prior {lam:g}"), None)
        if unit is not None and 0 < loss < math.inf:
            found.append(loss / unit)
    return max(found, default=None)
