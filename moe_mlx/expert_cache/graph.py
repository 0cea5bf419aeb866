"""What a layer asks of whoever runs its decode steps inside MLX's graph. Here a protocol only; `native` has it."""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx


class GraphDecode(Protocol):
    """One layer's decode steps in the graph, on the layer's own table, bank and log."""

    @property
    def ready(self) -> bool:
        """Whether the next step can run in the graph, as the layer is now."""

    def step(self, exact: mx.array, **router: mx.array | None) -> tuple[mx.array, mx.array]:
        """Adds one decode step to the graph.

        Args:
            exact: The model's own choice, one row.
            **router: `scores`, `raw`, `weigh` and `weights` as for `CappedSwitch.select`; none of them where the
                choice stands as it is.

        Returns:
            The chosen experts and their slots, shaped as `exact`.

        Raises:
            ExpertReadError: an earlier step failed and nothing has raised that yet.
        """

    def look_ahead(self, x: mx.array | None) -> None:
        """Takes the input `[1, D]` of this layer's router, from which the next layer's experts are guessed.

        Args:
            x: One row; None where the coming call is no decode step.
        """

    def reclaim(self) -> None:
        """Gives back the slots of stalled reads that have ended since; after the layer's queued steps."""
