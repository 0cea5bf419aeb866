"""The settings that a held price chooses among, from exact routing up: each loses more and reads or waits less.

A rung's `loss` is what it is expected to lose a token. What `moe-mlx eval` has measured of the model gives it in the
measure that is held; else it is in units of Cache-Prior at lambda 0.1: how the rungs compare was measured on two models
(docs/measurements.md), the size is learned from what was audited of the model that runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moe_mlx.routing.names import DEFAULT_BEYOND, EXACT, LATE

#: lambda -> expected loss, with J = 1 above `_GUARDED`.
_LOSSES = {
    0.002: 0.08,
    0.005: 0.14,
    0.01: 0.2,
    0.02: 0.3,
    0.03: 0.4,
    0.05: 0.6,
    0.07: 0.77,
    0.1: 1.0,
    0.14: 2.0,
    0.2: 3.0,
    0.28: 4.0,
    0.4: 7.0,
    0.6: 9.0,
    0.8: 11.0,
    1.0: 13.0,
}
#: What lambda 0.1 is expected to lose with J = 1: rungs just above it start from there.
_UNGUARDED = 1.3
#: Steps of a tenfold lambda on the fine ladder: neighbours are expected to differ by 7 to 12%.
_FINE = 20


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
#: The lambda that a quality begins with, before anything is known of the model.
START = 0.02


def ladder_for(top_k: int, *, late: bool, fine: bool = False) -> tuple[Rung, ...]:
    """Returns the rungs for a model, from exact routing up.

    Args:
        top_k: The model's.
        late: Whether light experts may be late. They save waits, not bytes: so for a speed.
        fine: Whether the lambdas lie close together, for a budget to be spent whole; a speed climbs wider steps.
    """
    lambdas = [Rung(lam, _loss(lam), None if lam <= _GUARDED or top_k <= 2 else 1) for lam in _lambdas(fine)]
    if not late:
        return (Rung(0.0, 0.0), *lambdas)
    alone = [Rung(0.0, loss, beyond=beyond) for beyond, loss in _LATE.items()]
    both = [Rung(rung.lam, rung.loss + _LATE[0.6], rung.top_j, 0.6) for rung in lambdas]
    return (Rung(0.0, 0.0), *alone, *both)


def _lambdas(fine: bool) -> list[float]:
    if not fine:
        return list(_LOSSES)
    least = min(_LOSSES)
    steps = range(round(-_FINE * math.log10(least)) + 1)
    return [float(f"{10 ** (-step / _FINE):.3g}") for step in reversed(steps)]


def _loss(lam: float) -> float:
    return _LOSSES.get(lam) or _between(lam, _LOSSES | ({_GUARDED: _UNGUARDED} if lam > _GUARDED else {}))


def _between(lam: float, points: Mapping[float, float]) -> float:
    """Returns what lies at a lambda between points that are joined by straight lines of logarithms."""
    at = sorted(points)
    return float(np.exp(np.interp(math.log(lam), np.log(at), np.log([points[one] for one in at]))))


def measured_ladder(ladder: Sequence[Rung], losses: Iterable[tuple[str, float]]) -> tuple[Rung, ...] | None:
    """Returns the ladder with the losses that were measured of a model; None where nothing that helps was.

    Between and beyond the measured lambdas a rung is to its neighbours as before. Of several losses of one lambda, as
    of several caps, the largest counts. Lambdas whose rung has a J of its own are not used.

    Args:
        ladder: Its losses relative to lambda 0.1.
        losses: Routings as an evaluation names them ("cache-prior 0.1"), and their losses.
    """
    own = {rung.lam for rung in ladder if rung.top_j is not None}
    sizes: dict[float, float] = {}
    for routing, loss in losses:
        name, _, number = routing.partition(" ")
        lam = float(number) if name == "cache-prior" and number.replace(".", "", 1).isdigit() else 0.0
        if min(_LOSSES) <= lam <= 1 and not (own and lam > _GUARDED) and 0 < loss < math.inf:
            sizes[lam] = max(sizes.get(lam, 0.0), loss / _loss(lam))
    if not sizes:
        return None
    found, before = [], 0.0
    for rung in ladder:
        loss = rung.loss * _between(rung.lam or min(_LOSSES), sizes)
        before = max(loss, before * 1.001)  # a measurement has errors: rungs stay in order
        found.append(replace(rung, loss=before))
    return tuple(found)
