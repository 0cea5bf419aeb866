"""Slot banks: for each tensor of a layer's experts one array `[slots, ...]`, allocated and evaluated once.

This is the cap: memory for experts cannot grow past its banks. Slots are filled by writing into the arrays' own
memory, which an evaluated MLX array exposes through the buffer protocol (bfloat16 through a view of its bits).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx import nn

from moe_mlx.errors import TWO_THREADS, UnsupportedModelError, UsageError
from moe_mlx.store import TensorSpec

if TYPE_CHECKING:
    from moe_mlx.expert_cache.low_slots import LowSlots

DTYPES: dict[str, mx.Dtype] = {
    "F32": mx.float32,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "U8": mx.uint8,
    "U16": mx.uint16,
    "U32": mx.uint32,
    "U64": mx.uint64,
    "I8": mx.int8,
    "I16": mx.int16,
    "I32": mx.int32,
    "I64": mx.int64,
    "F8_E4M3": mx.uint8,
    "F8_E8M0": mx.uint8,
}


def dtype_of(spec: TensorSpec) -> mx.Dtype:
    """Returns the MLX dtype of a stored tensor.

    Raises:
        UnsupportedModelError: MLX has no such dtype.
    """
    if spec.dtype not in DTYPES:
        raise UnsupportedModelError(f"{spec.name}: dtype {spec.dtype} has no MLX counterpart")
    return DTYPES[spec.dtype]


def placeholders(path: str, experts: int, specs: Sequence[TensorSpec]) -> dict[str, mx.array]:
    """Returns lazy arrays of the stacked shapes, for mlx-lm's loader to find; none of them is ever evaluated."""
    return {f"{path}.{spec.name}": mx.zeros((experts, *spec.shape), dtype_of(spec)) for spec in specs}


class SlotBank:
    """The arrays of one layer and the writable memory behind each slot.

    Attributes:
        low: The low slots beside them, which queued work reads with them; None where there are none.
    """

    def __init__(self, specs: Sequence[TensorSpec], slots: int) -> None:
        self.specs, self.slots = tuple(specs), slots
        self.low: LowSlots | None = None
        self.arrays = [mx.zeros((slots, *spec.shape), dtype_of(spec)) for spec in specs]
        mx.eval(self.arrays)
        self._bits = [array.view(mx.uint16) if array.dtype == mx.bfloat16 else array for array in self.arrays]
        mx.eval(self._bits)
        self._memory = [memoryview(bits).cast("B") for bits in self._bits]
        self._queued: mx.array | None = None
        self._thread = threading.current_thread()

    @property
    def nbytes(self) -> int:
        """Bytes of all slots, low ones included."""
        low = 0 if self.low is None else self.low.bank.nbytes
        return low + sum(array.nbytes for array in self.arrays)

    @property
    def expert_nbytes(self) -> int:
        """Bytes of one slot."""
        return sum(spec.nbytes for spec in self.specs)

    @property
    def allocated(self) -> bool:
        """Whether there is memory behind the slots: not after `free`."""
        return bool(self._memory)

    def buffers(self, slot: int) -> list[memoryview]:
        """Returns the bytes of one slot, a writable view per tensor, in the tensors' order."""
        return [
            memory[slot * spec.nbytes : (slot + 1) * spec.nbytes]
            for memory, spec in zip(self._memory, self.specs, strict=True)
        ]

    def using(self, output: mx.array) -> None:
        """Notes queued work that reads the slots, so that `wait_for_queued` can wait for it."""
        self._queued, self._thread = output, threading.current_thread()

    @property
    def queued(self) -> mx.array | None:
        """Work that may still read the slots: what a rewrite in the graph has to come after."""
        return self._queued

    def wait_for_queued(self) -> None:
        """Waits until no queued work reads the slots; to be called before any of them is rewritten.

        Raises:
            UsageError: only another thread, which is alive, can evaluate that work.
        """
        queued, self._queued = self._queued, None
        if queued is None:
            return
        try:
            mx.eval(queued)
        except RuntimeError as error:
            if self._thread is threading.current_thread():
                raise
            if self._thread.is_alive():  # else its streams have ended with it, and nobody can run that work any more
                self._queued = queued
                raise UsageError(TWO_THREADS) from error

    def abandon(self) -> None:
        """Forgets queued work that failed; its streams are drained."""
        self._queued = None

    def install(self, switch: nn.Module) -> None:
        """Puts the bank's arrays where the switch module keeps its stacked tensors.

        Raises:
            UnsupportedModelError: the module has no such tensor.
        """
        for spec, array in zip(self.specs, self.arrays, strict=True):
            owner: Any = switch
            *path, leaf = spec.name.split(".")
            for name in path:
                owner = owner[int(name)] if name.isdigit() else getattr(owner, name, None)
            if owner is None or leaf not in owner:
                raise UnsupportedModelError(f"{type(switch).__name__} has no tensor {spec.name}")
            setattr(owner, leaf, array)

    def free(self, switch: nn.Module) -> None:
        """Lets go of the arrays, here and in the switch module; waits for queued work first."""
        self.wait_for_queued()
        self._memory.clear()
        self._bits.clear()
        self.low = None
        lazy = [mx.zeros((1, *spec.shape), dtype_of(spec)) for spec in self.specs]
        self.arrays = lazy
        self.install(switch)
        self.arrays = []
