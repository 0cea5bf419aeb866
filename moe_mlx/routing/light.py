"""Light experts: those of a token that have most of its weight before them, and what an absent one of them may do.

With a token's chosen experts in descending weight, an expert is light where more than a share `beyond` of the token's
weight lies before it. The heaviest never is. `late` reads an absent light expert while the model goes on and adds its
output, with its own weight and from its own layer's input, a layer later (KTransformers' deferral, kept to what is
absent and light). `coarse` uses a light expert at its high bits where it is not resident whole (EdgeMoE 2308.14352,
D2MoE 2504.15299), and reads those alone where it is absent; `late-coarse` reads them late. Who is late or coarse
follows from weights and residency alone, never from how fast the disk was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe_mlx.errors import UsageError
from moe_mlx.routing.names import COARSES, DEFAULT_BEYOND, DEFAULT_DISTANCE, DROPPED, EXACT, LATER, LIGHTS
from moe_mlx.system.given import check_choice, check_whole


@dataclass(frozen=True, slots=True)
class LightRule:
    """What absent light experts do in a layer.

    Attributes:
        mode: One of `LIGHTS`, or `DROPPED` in an evaluation.
        beyond: Share of a token's weight that lies before a light expert, in [0, 1].
        distance: How many MoE layers later a late expert's output is added.
        by_layer: What stands for `beyond` in each layer; empty: the same in all.
    """

    mode: str = EXACT
    beyond: float = DEFAULT_BEYOND
    distance: int = DEFAULT_DISTANCE
    by_layer: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.mode != DROPPED:
            check_choice("light", self.mode, LIGHTS)
        for beyond in (self.beyond, *self.by_layer):
            if not isinstance(beyond, int | float) or not math.isfinite(beyond) or not 0 <= beyond <= 1:
                raise UsageError(f"light_beyond is {beyond!r}: give a number from 0 to 1")
        check_whole("light_distance", self.distance, of="layers")

    @property
    def waits(self) -> bool:
        """Whether every expert is waited for, and used whole."""
        return self.mode == EXACT

    @property
    def late(self) -> bool:
        """Whether absent light experts join later, or not at all."""
        return self.mode in (*LATER, DROPPED)

    @property
    def coarse(self) -> bool:
        """Whether light experts may be coarse."""
        return self.mode in COARSES

    def describe(self) -> str:
        """Returns one short line, "" where every expert is waited for."""
        if self.waits:
            return ""
        later = "" if self.mode not in LATER or self.distance == 1 else f", {self.distance} layers on"
        return f"light {self.mode} beyond {self.beyond:g}{later}"

    def of_layer(self, place: int) -> LightRule:
        """Returns the rule of the MoE layer at `place`."""
        return replace(self, beyond=self.by_layer[place], by_layer=()) if self.by_layer else self


@dataclass(frozen=True, slots=True)
class LightExperts:
    """What one token does with its light experts in one layer.

    Attributes:
        late: Those whose output is added a later layer's, in descending weight.
        late_weight: Their share of the token's weight.
        coarse: Those that are used at their high bits, likewise; a late one may be among them.
        coarse_weight: Their share.
    """

    late: tuple[int, ...] = ()
    late_weight: float = 0.0
    coarse: tuple[int, ...] = ()
    coarse_weight: float = 0.0


NONE_LIGHT = LightExperts()


@dataclass(frozen=True, slots=True)
class Room:
    """What a layer has for light experts.

    Attributes:
        slots: Its whole slots; low ones are numbered after them.
        late: How many experts of a token may be late.
        coarse: How many may be coarse.
    """

    slots: int
    late: int = 0
    coarse: int = 0


def rows_for(top_k: int) -> int:
    """Returns how many experts of a token may be late in a layer at most: half of them, the shape of the graph."""
    return top_k // 2


def by_rank(order: Sequence[int], experts: int) -> list[float]:
    """Returns shares that make light what is beyond the first half of a token's experts, for any threshold below 1.

    For routers whose weights are not known before the choice.

    Args:
        order: The chosen experts, the heaviest first.
        experts: E.
    """
    shares = [0.0] * experts
    if order:
        shares[order[(len(order) - 1) // 2]] = 1.0
    return shares


def pick_light(
    order: Sequence[int], shares: Sequence[float], slot_of: Sequence[int], beyond: float, room: Room
) -> LightExperts:
    """Returns who is late and who is coarse. The primitive has the same rule, bit for bit (native/core/light.h).

    An expert that is resident whole is neither. Otherwise a light one is coarse, where there is room, and late where it
    is absent, where there is room; what is left waits for all its bits.

    Args:
        order: The chosen experts of this layer, distinct, in touch order: the heaviest first.
        shares: `[E]`, what each expert would weigh, up to a common factor; float32, added up here in double.
        slot_of: `[E]`, below 0 where an expert is absent.
        beyond: Share of the weight that lies before a light expert.
        room: What the layer has for them.
    """
    total = 0.0
    for expert in order:  # not `sum`, which rounds otherwise since Python 3.12
        total += shares[expert]
    late: list[int] = []
    coarse: list[int] = []
    limit, before, late_weight, coarse_weight = beyond * total, 0.0, 0.0, 0.0
    for place, expert in enumerate(order):
        slot, share = slot_of[expert], shares[expert]
        if place and before > limit and not 0 <= slot < room.slots:
            if len(coarse) < room.coarse:
                coarse.append(expert)
                coarse_weight += share
            if slot < 0 and len(late) < room.late:
                late.append(expert)
                late_weight += share
        before += share
    if not late and not coarse:
        return NONE_LIGHT
    return LightExperts(tuple(late), late_weight / total, tuple(coarse), coarse_weight / total)
