"""DBRX: mlx-lm keeps a list of experts and visits it token by token. Here they are a switch like any other."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.switch_layers import SwiGLU, SwitchGLU, SwitchLinear


class DbrxExperts(SwitchGLU):
    """The experts of one layer, stacked, under the names of their checkpoint."""

    def __init__(self, dims: int, hidden: int, experts: int) -> None:
        nn.Module.__init__(self)
        self.w1 = SwitchLinear(dims, hidden, experts, bias=False)
        self.v1 = SwitchLinear(dims, hidden, experts, bias=False)
        self.w2 = SwitchLinear(hidden, dims, experts, bias=False)
        self.activation = SwiGLU()

    @property
    def gate_proj(self) -> nn.Module:
        """As `SwitchGLU` calls it."""
        return self.w1

    @property
    def up_proj(self) -> nn.Module:
        """As `SwitchGLU` calls it."""
        return self.v1

    @property
    def down_proj(self) -> nn.Module:
        """As `SwitchGLU` calls it."""
        return self.w2


def stack_experts(model: nn.Module) -> None:
    """Puts a switch in the place of every list of DBRX experts of an unloaded model; leaves other models alone."""
    for module in model.modules():
        kind = type(module)
        if kind.__module__ == "mlx_lm.models.dbrx" and kind.__name__ == "SparseMoeBlock":
            module.experts = DbrxExperts(module.d_model, module.ffn_dim, module.num_experts)


class DbrxBlock:
    """Stands in front of dbrx's `SparseMoeBlock`, in every call."""

    def __call__(self: Any, x: mx.array) -> mx.array:
        """Computes `[B, L, D]`."""
        rows = x.reshape(-1, x.shape[-1])
        chosen, weights = self.routing.routed(self, rows)
        y = self.experts(rows, chosen)
        return (mx.contiguous(y.swapaxes(-1, -2)) * weights[:, None, :]).sum(axis=-1).reshape(x.shape)
