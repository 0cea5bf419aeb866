"""Light experts: those of a token that have most of its weight before them, and what an absent one of them may do.

With a token's chosen experts in descending weight, an expert is light where more than a share `beyond` of the token's
weight lies before it. The heaviest never is. `late` reads an absent light expert while the model goes on and adds its
output, with its own weight and from its own layer's input, a layer later (KTransformers' deferral, kept to what is
absent and light). Who is late follows from weights and residency alone, never from how fast the disk was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moe_mlx.errors import UsageError
from moe_mlx.routing.names import DEFAULT_BEYOND, DEFAULT_DISTANCE, DROPPED, EXACT, LATE, LIGHTS
from moe_mlx.system.given import check_choice, check_whole


@dataclass(frozen=True, slots=True)
class LightRule:
    """What absent light experts do in a layer.

    Attributes:
        mode: One of `LIGHTS`, or `DROPPED` in an evaluation.
        beyond: Share of a token's weight that lies before a light expert, in [0, 1].
        distance: How many MoE layers later a late expert's output is added.
    """

    mode: str = EXACT
    beyond: float = DEFAULT_BEYOND
    distance: int = DEFAULT_DISTANCE

    def __post_init__(self) -> None:
        if self.mode != DROPPED:
            check_choice("light", self.mode, LIGHTS)
        if not isinstance(self.beyond, int | float) or not math.isfinite(self.beyond) or not 0 <= self.beyond <= 1:
            raise UsageError(f"light_beyond is {self.beyond!r}: give a number from 0 to 1")
        check_whole("light_distance", self.distance, of="layers")

    @property
    def waits(self) -> bool:
        """Whether every expert is waited for."""
        return self.mode == EXACT

    def describe(self) -> str:
        """Returns one short line, "" where every expert is waited for."""
        if self.waits:
            return ""
        later = "" if self.mode != LATE or self.distance == 1 else f", {self.distance} layers on"
        return f"light {self.mode} beyond {self.beyond:g}{later}"


@dataclass(frozen=True, slots=True)
class Late:
    """The late experts of one token in one layer.

    Attributes:
        experts: In descending weight.
        weight: Their share of the token's weight.
    """

    experts: tuple[int, ...] = ()
    weight: float = 0.0


NONE_LATE = Late()


def rows_for(top_k: int) -> int:
    """Returns how many experts of a token may be late in a layer at most: half of them, the shape of the graph."""
    return top_k // 2


def pick_late(order: Sequence[int], shares: Sequence[float], slot_of: Sequence[int], beyond: float, most: int) -> Late:
    """Returns who is late. The primitive has the same rule, bit for bit (native/core/late.h).

    Args:
        order: The chosen experts of this layer, distinct, in touch order: the heaviest first.
        shares: `[E]`, what each expert would weigh, up to a common factor; float32, added up here in double.
        slot_of: `[E]`, below 0 where an expert is absent.
        beyond: Share of the weight that lies before a light expert.
        most: How many may be late; those after them wait.
    """
    total = 0.0
    for expert in order:  # not `sum`, which rounds otherwise since Python 3.12
        total += shares[expert]
    late: list[int] = []
    limit, before, weight = beyond * total, 0.0, 0.0
    for place, expert in enumerate(order):
        if place and before > limit and slot_of[expert] < 0 and len(late) < most:
            late.append(expert)
            weight += shares[expert]
        before += shares[expert]
    return Late(tuple(late), weight / total) if late else NONE_LATE
