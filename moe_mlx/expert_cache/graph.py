"""What a layer asks of whoever runs its decode steps inside MLX's graph. Here a protocol only; `native` has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class GraphStep:
    """What one decode step in the graph gives; each shaped as the model's own choice but for its last axis.

    Attributes:
        chosen: `[..., k]`, the chosen experts.
        slots: `[..., k]`, their slots.
        split: Where experts may be late: which are there `[..., k]`, and the places of the late ones `[..., R]`.
        late_slots: `[..., R]`, of what an earlier layer owes to this step, if it does.
    """

    chosen: mx.array
    slots: mx.array
    split: tuple[mx.array, mx.array] | None = None
    late_slots: mx.array | None = None


class GraphDecode(Protocol):
    """One layer's decode steps in the graph, on the layer's own table, bank and log."""

    @property
    def ready(self) -> bool:
        """Whether the next step can run in the graph, as the layer is now."""

    def step(self, exact: mx.array, **router: mx.array | None) -> GraphStep:
        """Adds one decode step to the graph.

        Args:
            exact: The model's own choice, one row.
            **router: `scores`, `raw`, `weigh`, `weights` and `shares` as for `CappedSwitch.select`; none of them where
                the choice stands as it is.

        Raises:
            ExpertReadError: an earlier step failed and nothing has raised that yet.
        """

    def guess_next(self, x: mx.array | None) -> None:
        """Has the next layer's router guess that layer's experts, for this layer's next step to prefetch.

        Args:
            x: Input `[1, D]` of this layer's router; None where the call to come is no decode step.
        """

    def rows(self, chosen: mx.array) -> mx.array:
        """Adds one step of several rows to the graph, each with the model's own choice.

        Args:
            chosen: `[..., k]` expert numbers, which all fit into the layer's slots together.

        Returns:
            Their slots, shaped as `chosen`.

        Raises:
            ExpertReadError: an earlier step failed and nothing has raised that yet.
        """

    def reclaim(self) -> None:
        """Gives back the slots of stalled reads that have ended since; after the layer's queued steps."""
