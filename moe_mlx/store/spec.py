"""What one expert is on disk: its tensors, their order, and where its bytes lie. Knows no files and no arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

#: Bytes of one element, by safetensors dtype. Sub-byte dtypes (F4, F6_*) are left out: MLX does not load them.
DTYPE_NBYTES: dict[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}

#: Most experts of a layer and the largest number of a layer: six digits name them.
MOST_EXPERTS = 999_999


def tensor_nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Returns the bytes of a tensor of `shape` (elements) in `dtype` (safetensors spelling)."""
    return math.prod(shape) * DTYPE_NBYTES[dtype]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of one expert.

    Attributes:
        name: Relative to the switch module, such as `gate_proj.weight` or `fc1.global_scale`.
        dtype: As safetensors spells it (`BF16`, `U32`, ...).
        shape: Of one expert: the leading axis of experts is gone.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of this tensor in one expert."""
        return tensor_nbytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """The routed experts of one mixture-of-experts layer; all of them share one layout.

    Attributes:
        index: Ordinal among MoE layers in the order of execution, from 0.
        layer: The model's own layer number; leading dense layers shift it away from `index`.
        path: Module path of the switch, such as `model.layers.3.mlp.switch_mlp`.
        experts: How many routed experts the layer has.
        top_k: How many of them the router chooses for a token.
        tensors: One expert's tensors, in the order in which a reader fills its buffers.
        stored_nbytes: Bytes of all experts in their files, where some have fewer bits there than in memory.
    """

    index: int
    layer: int
    path: str
    experts: int
    top_k: int
    tensors: tuple[TensorSpec, ...]
    stored_nbytes: int | None = None

    @property
    def expert_nbytes(self) -> int:
        """Bytes of one expert in memory, all tensors together."""
        return sum(t.nbytes for t in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all experts of this layer in memory."""
        return self.experts * self.expert_nbytes

    @property
    def read_nbytes(self) -> float:
        """Bytes that are read for one expert, in the mean of all."""
        return self.expert_nbytes if self.stored_nbytes is None else self.stored_nbytes / self.experts


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A run of `nbytes` bytes at `offset` in the file at `path`."""

    path: Path
    offset: int
    nbytes: int
