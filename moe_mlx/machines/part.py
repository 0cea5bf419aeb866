"""The part of a model that one rank runs, by mlx-lm's own `pipeline`: its layers, and no other layer's experts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlx import nn
from mlx.utils import tree_flatten

from moe_mlx.errors import UsageError
from moe_mlx.machines.split import check_split, split_by_memory


@dataclass(frozen=True, slots=True)
class Part:
    """A rank's part.

    Attributes:
        group: MLX's group.
        memories: Bytes that each rank may use, by rank; layers are shared by them.
        asked: Layers of each rank, where the user asked for them.
        agree: Gives every rank's words about something, from this rank's; all of them ask in the same order.
    """

    group: Any
    memories: tuple[int, ...]
    asked: tuple[int, ...] | None
    agree: Callable[[str, str], list[str]]

    def narrow(self, model: nn.Module, family: str) -> range:
        """Leaves a model, whose weights are still lazy, with this rank's layers, and returns which those are.

        Raises:
            UsageError: mlx-lm cannot pipeline it, or not with this split.
        """
        stack = pipelined(model, family)
        if "split" in inspect.signature(stack.pipeline).parameters:
            stack.pipeline(self.group, self._split(stack.layers))
        elif self.asked is None:
            stack.pipeline(self.group)
        else:
            raise UsageError(f"mlx-lm shares the layers of {family} evenly only: leave --split out")
        held = range(stack.start_idx, stack.end_idx)
        _show_held(model, family, held)
        return held

    def _split(self, layers: Sequence[nn.Module]) -> list[int]:
        if self.asked is not None:
            check_split(self.asked, len(layers), self.group.size())
            return list(self.asked)
        sizes = [sum(array.nbytes for _, array in tree_flatten(layer.parameters())) for layer in layers]
        return split_by_memory(sizes, self.memories)


def pipelined(model: nn.Module, family: str) -> Any:
    """Returns the module of a model that mlx-lm can pipeline.

    Raises:
        UsageError: it has none.
    """
    places: Sequence[Any] = (model, getattr(model, "language_model", None))
    for place in places:
        stack = getattr(place, "model", None)
        if stack is not None and hasattr(stack, "pipeline") and hasattr(stack, "layers"):
            return stack
    raise UsageError(
        f"mlx-lm has no pipeline for {family}, so its layers cannot be shared among machines (docs/machines.md names "
        "the families that have one)"
    )


def _show_held(model: nn.Module, family: str, held: range) -> None:
    """Lets a model say which layers it has: some of mlx-lm's wrappers name those that are elsewhere as well.

    mlx-lm makes a cache for each of them, and then hangs a message on the last one, which no layer has filled.
    """
    if len(model.layers) == len(held):
        return
    kind = type(model)

    def layers(self: nn.Module) -> Any:
        return pipelined(self, family).layers[held.start : held.stop]

    names = {"layers": property(layers), "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    model.__class__ = type(kind.__name__, (kind,), names)
