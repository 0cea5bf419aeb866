"""A layer's late experts in the model call under way: who they are, their reads, and where their output is added.

A layer that lets experts be late *owes* their output to a later one: it is computed there, from the earlier layer's
input and slots and with the earlier layer's weights, and added to that layer's own output. The shapes are fixed, so
that a step in the graph has them too: as many rows as may be late at most; those without a late expert are filled up
with the heaviest expert and a weight of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import mlx.core as mx

from moe_mlx.routing.light import NONE_LIGHT, LightExperts, LightRule, Room, by_rank, pick_light, rows_for
from moe_mlx.routing.names import DROPPED

if TYPE_CHECKING:
    from moe_mlx.expert_cache.reading import Reads
    from moe_mlx.expert_cache.residency import Placement, ResidencyTable
    from moe_mlx.expert_cache.slots import SlotBank
    from moe_mlx.expert_cache.steps import StepCounter
    from moe_mlx.store import ExpertLayer


@dataclass(slots=True)
class Owed:
    """What a layer leaves to a later one.

    Attributes:
        step: The model call.
        weights: `[..., R]`, the model's weights of the late experts; 0 in rows without one.
        x: `[..., D]`, the input of the layer's experts.
        args: What else they were called with.
        kwargs: The same, by name.
        finish: From the weighed sum to what the layer's block would have added.
    """

    step: int
    weights: mx.array
    x: mx.array | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    finish: Callable[[mx.array], mx.array] | None = None


class LateLayer(Protocol):
    """What lateness asks of a layer; `layer.LayerCache` is one."""

    spec: ExpertLayer
    table: ResidencyTable
    bank: SlotBank
    counter: StepCounter
    full: bool
    lateness: Lateness

    @property
    def native(self) -> object | None:
        """What runs the layer's decode steps in the graph; None while decode reads back."""

    @property
    def in_graph(self) -> object | None:
        """The same, where the next step can run there."""

    def compute(self, x: mx.array, slots: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        """Returns `[..., k, D]`: the outputs of the experts in slots `[..., k]`, whole or coarse."""


class Lateness:
    """One layer's part in it, as the one that owes and as the one that adds.

    Attributes:
        rule: What light experts do.
        why_waits: Why this layer's late output cannot be added anywhere; "" where it is known how.
        earlier: The layer whose late experts join here; None where no layer's do.
        later: The layer where this one's late experts join; None: it waits for all of them.
        owed: What this layer owes in the call under way.
        due: What joins this layer's output in the call under way, and the slots `[..., R]` of its experts.
        split: Of the step under way, where experts may be late: 1 for experts that are there and 0 for late ones
            `[..., k]`, and the late ones' places among them `[..., R]`.
    """

    def __init__(self, cache: LateLayer) -> None:
        self._cache = cache
        self.rule = LightRule()
        self.why_waits = "this model's router is not known"
        self.earlier: LateLayer | None = None
        self.later: LateLayer | None = None
        self.owed: Owed | None = None
        self.due: tuple[LateLayer, Owed, mx.array] | None = None
        self.split: tuple[mx.array, mx.array] | None = None
        self._reads: Reads | None = None
        self._slots: list[int] = []

    def link(self, rule: LightRule, earlier: LateLayer | None, later: LateLayer | None) -> None:
        """Puts a rule in force between two model calls."""
        self.rule, self.earlier, self.later = rule, earlier, later
        self.clear()

    def clear(self) -> None:
        """Forgets what a call that was broken off has left."""
        self.owed = self.due = self.split = self._reads = None

    @property
    def on(self) -> bool:
        """Whether experts of this layer, or of one that joins it, may be late."""
        return self.rule.late and (self.earlier is not None or self.later is not None)

    @property
    def rows(self) -> int:
        """How many experts of a token may be late: R."""
        return rows_for(self._cache.spec.top_k)

    @property
    def may_owe(self) -> bool:
        """Whether experts of the next step may be late: the layer that they would join looks at its routing too."""
        cache, later = self._cache, self.later
        if not self.rule.late or later is None or cache.full or later.full or not self.rows:
            return False
        return (cache.in_graph is None) == (later.in_graph is None)

    def expected(self) -> Owed | None:
        """Returns what the earlier layer owes to the step under way; None where it owes nothing."""
        owed = None if self.earlier is None else self.earlier.lateness.owed
        return owed if owed is not None and owed.step == self._cache.counter.step else None

    @property
    def may_be_coarse(self) -> bool:
        """Whether experts of the next step may be coarse."""
        return self.rule.coarse and self._cache.table.low > 0

    @property
    def judges(self) -> bool:
        """Whether it matters who is light in the next step."""
        return self.may_owe or self.may_be_coarse

    def pick(self, order: Sequence[int], shares: Sequence[float] | None) -> LightExperts:
        """Returns who of the chosen is late or coarse; arguments as for `pick_light`, shares where they are known."""
        if not self.judges:
            return NONE_LIGHT
        table = self._cache.table
        room = Room(table.slots, self.rows if self.may_owe else 0, self._cache.spec.top_k if self.may_be_coarse else 0)
        if shares is None:
            shares = by_rank(order, table.experts)
        return pick_light(order, shares, table.slot_of, self.rule.beyond, room)

    def reading(self, reads: Reads | None, late: Sequence[Placement], heaviest: int) -> None:
        """Notes reads that a later layer will wait for.

        Args:
            reads: Under way; None where nobody is late.
            late: The late experts and their slots.
            heaviest: The slot of the heaviest expert, for the rows that are left.
        """
        self._reads = reads
        self._slots = [placement.slot for placement in late]
        self._slots += [heaviest] * (self.rows - len(self._slots))

    def await_earlier(self) -> int:
        """Waits for the late experts of the earlier layer, if it owes any in the call under way.

        Returns:
            Nanoseconds that took.

        Raises:
            ExpertReadError: one of them could not be read.
        """
        if self.expected() is None or self.earlier is None:
            return 0
        theirs = self.earlier.lateness
        reads, theirs._reads = theirs._reads, None
        return 0 if reads is None else reads.finish()

    @property
    def earlier_slots(self) -> list[int]:
        """The slots of those, `R` of them."""
        assert self.earlier is not None
        return self.earlier.lateness._slots

    def take(self, split: tuple[mx.array, mx.array] | None, slots: mx.array | None) -> None:
        """Takes what a step has brought: who is late in it, and the slots of what the earlier layer owes."""
        self.split, owed = split, self.expected()
        self.due = None
        if owed is not None and slots is not None and self.earlier is not None:
            self.due = (self.earlier, owed, slots)
            self.earlier.lateness.owed = None

    def part(self, weights: mx.array) -> mx.array:
        """Returns a step's weights `[..., k]` with those of late experts 0, and notes what is owed."""
        if (split := self.split) is None:
            return weights
        self.split = None
        here, places = split[0].astype(weights.dtype), split[1]
        kept = weights * here
        late = mx.take_along_axis(weights * (1 - here), places, axis=-1)
        if self.rule.mode == DROPPED:
            late = mx.zeros_like(late)
            kept = kept * (weights.sum(axis=-1, keepdims=True) / kept.sum(axis=-1, keepdims=True))
        self.owed = Owed(self._cache.counter.step, late)
        return kept

    def entered(self, x: mx.array, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Notes the input of the experts of the step under way."""
        if self.owed is not None and self.owed.x is None:
            self.owed.x, self.owed.args, self.owed.kwargs = x, args, kwargs

    def join(self, out: mx.array, finish: Callable[[mx.array], mx.array]) -> mx.array:
        """Returns the output of this layer's block with what is due added to it.

        Args:
            out: `[..., D]`.
            finish: As `Owed.finish`, of the call that gave `out`.
        """
        if self.owed is not None and self.owed.finish is None:
            self.owed.finish = finish
        due, self.due = self.due, None
        return out if due is None else out + late_output(*due).reshape(out.shape).astype(out.dtype)


def late_output(cache: LateLayer, owed: Owed, slots: mx.array) -> mx.array:
    """Returns `[..., D]`: what a layer's block would have added for its late experts.

    Args:
        cache: The layer.
        owed: What it owes.
        slots: `[..., R]`, where its late experts are.
    """
    assert owed.finish is not None
    assert owed.x is not None
    y = cache.compute(owed.x, slots, *owed.args, **owed.kwargs)
    cache.bank.using(y)
    return owed.finish((y * owed.weights[..., None]).sum(axis=-2))
