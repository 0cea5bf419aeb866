"""A layer's experts for training on a CPU: each runs once over all of its rows, which have room set aside.

mlx-lm's switch computes a row at a time there. Parameters keep its names.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn

#: Rows that an expert has room for, in shares of what it gets when all get the same; further ones add nothing.
ROOM = 2.0


class GroupedExperts(nn.Module):
    """Stands in for a `SwitchGLU`, whose projections it takes over.

    Args:
        switch: Without biases.
        room: See `ROOM`.
    """

    def __init__(self, switch: Any, room: float = ROOM) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = switch.gate_proj, switch.up_proj, switch.down_proj
        self._room = room
        self._load: mx.array | None = None
        self._left_out: mx.array | None = None

    @property
    def load(self) -> mx.array:
        """Rows that each expert was chosen for in the last call, int32 `[E]`."""
        assert self._load is not None
        return self._load

    @property
    def left_out(self) -> mx.array:
        """Rows of that call for which there was no room."""
        assert self._left_out is not None
        return self._left_out

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """Runs the chosen experts.

        Args:
            x: float32 `[..., D]`.
            indices: `[..., k]`.

        Returns:
            float32 `[..., k, D]`.
        """
        experts, k = self.gate_proj.weight.shape[0], indices.shape[-1]
        chosen = mx.stop_gradient(indices).reshape(-1).astype(mx.int32)
        room = int(min(chosen.size, -(-chosen.size * self._room // experts)))
        self._load = load = (chosen[:, None] == mx.arange(experts)).sum(0)
        self._left_out = mx.maximum(load - room, 0).sum()
        begin = mx.cumsum(load) - load
        order = mx.argsort(chosen)
        nth = mx.argsort(order) - begin[chosen]  # which of its expert's rows each is
        source = mx.minimum(begin[:, None] + mx.arange(room), chosen.size - 1)
        rows = x.reshape(-1, x.shape[-1])[order[source] // k]
        inner = nn.silu(rows @ self.gate_proj.weight.swapaxes(1, 2)) * (rows @ self.up_proj.weight.swapaxes(1, 2))
        out = (inner @ self.down_proj.weight.swapaxes(1, 2)).reshape(experts * room, -1)
        picked = out[chosen * room + mx.minimum(nth, room - 1)] * (nth < room)[:, None]
        return picked.reshape(*indices.shape, -1)
