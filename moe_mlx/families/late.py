"""How a block would have added its late experts: from it, its input and their weighed sum to its part of the residual.

What a block does to the sum of its experts must be linear, so that a part of it can be added elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

AddLate = Callable[[Any, mx.array, mx.array], mx.array]


def bare(block: Any, x: mx.array, late: mx.array) -> mx.array:
    """The sum itself."""
    return late


def scaled(block: Any, x: mx.array, late: mx.array) -> mx.array:
    """Laguna: the block scales its routed part."""
    out: mx.array = late * block.routed_scaling_factor
    return out


def latent_up(block: Any, x: mx.array, late: mx.array) -> mx.array:
    """Nemotron-H: back up from the experts' latent width, where there is one; its bias has been added already."""
    if block.moe_latent_size is None:
        return late
    out: mx.array = block.fc2_latent_proj(late.astype(x.dtype))
    return out - block.fc2_latent_proj.bias if "bias" in block.fc2_latent_proj else out


def routed_share(block: Any, x: mx.array, late: mx.array) -> mx.array:
    """Klear: the routed part counts by its learned coefficient."""
    return late * mx.softmax(block.coefficient(x), axis=-1, precise=True)[..., :1]
