"""DeepSeek V4: some of its layers look a token's experts up, and pictures have a bias of their own."""

from __future__ import annotations

from typing import Any

import mlx.core as mx


class HashedGate:
    """For a gate that is called with the tokens too: only where they do not matter is a step routed by a policy.

    The gate goes through a short prompt row by row, calling itself; such a row is no decode step.
    """

    row_of_prompt = False

    def __call__(self: Any, x: mx.array, input_ids: mx.array | None = None) -> tuple[mx.array, mx.array]:
        """Routes `[B, L, D]`."""
        if self.row_of_prompt:
            return super().__call__(x, input_ids)  # type: ignore[misc]
        if not self.hash and not self.vision and self.routing.takes(self, x):
            choice: tuple[mx.array, mx.array] = self.routing.choose(self, x)
            return choice
        object.__setattr__(self, "row_of_prompt", True)
        try:
            return super().__call__(x, input_ids)  # type: ignore[misc]
        finally:
            object.__setattr__(self, "row_of_prompt", False)
