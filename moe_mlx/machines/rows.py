"""Rows of every expert on every machine: each computes its own output rows, and all gather them twice a layer.

No floating-point number is added across machines, so logits and residency are one process's, bit for bit. The gathers
lie inside the switch, each hanging on the one before it: one chain a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from moe_mlx.errors import StoreMissingError, UsageError
from moe_mlx.machines.split import split_by_memory
from moe_mlx.store import ExpertSource
from moe_mlx.store.row_share import RowShare
from moe_mlx.store.store import StoreSource

#: The last projection of mlx-lm's switches, and one before it.
_PROJECTIONS: dict[type[nn.Module], tuple[str, str]] = {
    SwitchGLU: ("down_proj", "up_proj"),
    SwitchMLP: ("fc2", "fc1"),
}


def shareable(source: ExpertSource, ranks: int) -> str:
    """Returns why a model's experts cannot be shared by rows among so many ranks; "" where they can."""
    if not isinstance(source, StoreSource):
        return "it needs a store: `moe-mlx convert --row-blocks 16`"
    if (blocks := min(layout.row_blocks for layout in source.layouts)) < ranks:
        return f"the store has {blocks} row blocks an expert: `moe-mlx convert --row-blocks 16` cuts them"
    lasts = tuple(f"{last}." for last, _ in _PROJECTIONS.values())
    for layer in source.layers:
        if not any(tensor.name.startswith(lasts) for tensor in layer.tensors):
            return "its experts are of a kind that is not known to be shared by rows"
    return ""


@dataclass(frozen=True, slots=True)
class Rows:
    """A rank's rows.

    Attributes:
        group: MLX's group.
        memories: Bytes that each rank may use, by rank; row blocks are shared by them.
        asked: Row blocks of each rank, where the user asked for them.
        agree: Gives every rank's words about something, from this rank's; all of them ask in the same order.
    """

    group: Any
    memories: tuple[int, ...]
    asked: tuple[int, ...] | None
    agree: Callable[[str, str], list[str]]

    def counts(self, blocks: int) -> list[int]:
        """Returns the row blocks of each rank."""
        if blocks < self.group.size():
            raise UsageError(
                f"this store's experts are in {blocks} row blocks, and {self.group.size()} machines would share them: "
                "`moe-mlx convert --row-blocks 16` cuts them"
            )
        if self.asked is None:
            return split_by_memory([1] * blocks, self.memories)
        if len(self.asked) != self.group.size() or min(self.asked) < 1 or sum(self.asked) != blocks:
            raise UsageError(
                f"--split {','.join(map(str, self.asked))}: this store has {blocks} row blocks for {self.group.size()} "
                "ranks, each of which needs one at least"
            )
        return list(self.asked)

    def share(self, source: ExpertSource) -> ExpertSource:
        """Returns this rank's share of a store's experts.

        Raises:
            UsageError: it is no store, or has too few row blocks.
        """
        if not isinstance(source, StoreSource):
            raise UsageError(f"{source.root}: --parallel tensor needs a store: `moe-mlx convert --row-blocks 16`")
        counts = self.counts(min(layout.row_blocks for layout in source.layouts))
        if absent := source.absent_layers():
            raise StoreMissingError(f"{source.root}: {absent[0]} is not here, and every rank shares all layers by rows")
        begin = sum(counts[: self.group.rank()])
        return RowShare(source, range(begin, begin + counts[self.group.rank()]))

    def slots(self, slots: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the slots of each layer that every rank has room for: tables have to be alike."""
        told = self.agree("slots", ",".join(map(str, slots)))
        return tuple(map(min, zip(*([int(word) for word in words.split(",")] for words in told), strict=True)))

    def gather_in(self, inner: nn.Module, rows: ExpertSource, index: int) -> None:
        """Lets a layer's switch gather what it puts into its last projection, and what comes of it.

        Args:
            inner: mlx-lm's switch, its tensors already those of a share.
            rows: The share.
            index: MoE ordinal of the layer.

        Raises:
            UsageError: a switch that is not known.
        """
        names = _PROJECTIONS.get(type(inner))
        if names is None:
            raise UsageError(
                f"the experts of {rows.config.get('model_type')} ({type(inner).__name__}) are not known to be shared "
                "by rows: choose --parallel pipeline"
            )
        layout = rows.layouts[index]
        counts = self.counts(layout.row_blocks)
        tensors = {spec.name: spec.shape[0] for spec in layout.layer.tensors}
        last, before = (next(rows for name, rows in tensors.items() if name.startswith(f"{n}.")) for n in names)

        def gathered(rows_in_all: int) -> Callable[[mx.array], mx.array]:
            return Gather(self.group, [rows_in_all * count // layout.row_blocks for count in counts])

        projection = inner[names[0]]
        kind = type(projection)
        into, outof = gathered(before), gathered(last)

        class OverMachines(kind):  # type: ignore[misc, valid-type]
            """The same projection with its input and its output gathered."""

            def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
                return outof(super().__call__(into(x), *args, **kwargs))

        projection.__class__ = OverMachines


class Gather:
    """Gathers the last axis, of which each rank has some columns."""

    def __init__(self, group: Any, widths: list[int]) -> None:
        self._group, self._widths = group, widths

    def __call__(self, x: mx.array) -> mx.array:
        """Returns `[..., sum of widths]` from each rank's `[..., its width]`."""
        if x.shape[-1] != self._widths[self._group.rank()]:
            raise ValueError(f"{x.shape[-1]} rows where {self._widths[self._group.rank()]} are this rank's")
        most = max(self._widths)
        if x.shape[-1] < most:
            x = mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, most - x.shape[-1])])
        parts = mx.distributed.all_gather(x[None], group=self._group)
        return mx.concatenate([parts[rank, ..., :width] for rank, width in enumerate(self._widths)], axis=-1)
