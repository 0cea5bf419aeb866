"""Router scores and choices of every layer and token of a decode run, in one `.npz` file with its model's identity.

Only decode steps of an evaluation are in it: no prompt is. Knows no MLX.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moe_mlx.errors import UsageError
from moe_mlx.system.whole_files import whole_file

if TYPE_CHECKING:
    from moe_mlx.store import ExpertLayer

FORMAT, VERSION = "moe-mlx trace", 1
Matrix = NDArray[np.float32]


class Event(Protocol):
    """One token in one layer, as `moe_mlx.expert_cache.layer.DecodeEvent` has it."""

    @property
    def index(self) -> int:
        """MoE ordinal of the layer."""

    @property
    def scores(self) -> Matrix:
        """What the model ranks by; it and the next two empty where the router is not known."""

    @property
    def raw(self) -> Matrix:
        """The same before groups were masked."""

    @property
    def weigh(self) -> Matrix:
        """What the model weighs by."""

    @property
    def exact(self) -> tuple[int, ...]:
        """The model's own choice in its own order."""

    @property
    def touched(self) -> tuple[int, ...]:
        """The experts used, in touch order."""

    @property
    def guess(self) -> Matrix | None:
        """What the layer's router says of the layer before's router input; None where nobody could ask."""


@dataclass(frozen=True)
class LayerTrace:
    """One MoE layer.

    Attributes:
        experts: E.
        top_k: k.
        expert_nbytes: Bytes of one expert.
        scores: float32 `[T, E]`, what the model ranks by.
        raw: float32 `[T, E]`, the same before groups were masked; the very same array where no group is.
        weigh: float32 `[T, E]`, what the model weighs by; the very same array where it orders alike.
        exact: int32 `[T, k]`, the model's own choice in its own order.
        touched: int32 `[T, k]`, the experts used, in touch order, -1 where there were fewer.
        guess: float32 `[T, E]`, what the layer's router says of the router input of the layer before, as prefetch asks
            it; None in the first layer, and where the router is not known.
    """

    experts: int
    top_k: int
    expert_nbytes: int
    scores: Matrix
    raw: Matrix
    weigh: Matrix
    exact: NDArray[np.int32]
    touched: NDArray[np.int32]
    guess: Matrix | None = None

    def exact_choices(self) -> list[list[int]]:
        """The model's own choice at each token: distinct experts, in its own order."""
        return [[e for e in dict.fromkeys(row) if e < self.experts] for row in self.exact.tolist()]


@dataclass(frozen=True)
class Trace:
    """A recorded run.

    Attributes:
        model: Identity of the model, as `identity_of` tells it.
        name: The model's folder, for people.
        layers: In the order of execution.
        setting: Cap, routing, value, top_j and evict that were in force, as in `Setting`.
        slots: Slots of each layer then.
        counted: What the runtime counted: tokens, hits, misses, swapped, bytes_read.
    """

    model: str
    name: str
    layers: tuple[LayerTrace, ...]
    setting: dict[str, Any]
    slots: tuple[int, ...]
    counted: dict[str, int]

    @property
    def tokens(self) -> int:
        """Tokens recorded."""
        return int(self.layers[0].exact.shape[0])

    @property
    def sized(self) -> list[ExpertLayer]:
        """The layers for whoever divides a cap: they have experts, top_k and expert_nbytes, which is all it asks."""
        layers: Any = self.layers
        return list(layers)

    def check_model(self, identity: str, name: str) -> None:
        """Raises UsageError unless the trace is of the model with that identity."""
        if self.model != identity:
            raise UsageError(
                f"the trace was recorded from another model ({self.name}, {self.model[:8]}) than {name} "
                f"({identity[:8]}): record it again with `moe-mlx eval --model {name} --trace`"
            )

    def save(self, path: Path) -> None:
        """Writes the trace, whole or not at all."""
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "name": self.name,
            "setting": self.setting,
            "slots": self.slots,
            "counted": self.counted,
            "layers": [[layer.experts, layer.top_k, layer.expert_nbytes] for layer in self.layers],
        }
        arrays: dict[str, Any] = {"meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)}
        for index, layer in enumerate(self.layers):
            arrays |= {
                f"scores_{index}": layer.scores,
                f"exact_{index}": layer.exact,
                f"touched_{index}": layer.touched,
            }
            if layer.raw is not layer.scores:
                arrays[f"raw_{index}"] = layer.raw
            if layer.weigh is not layer.scores:
                arrays[f"weigh_{index}"] = layer.weigh
            if layer.guess is not None:
                arrays[f"guess_{index}"] = layer.guess
        with whole_file(path) as file:
            np.savez(file, **arrays)


def load_trace(path: Path) -> Trace:
    """Reads a trace.

    Raises:
        UsageError: there is no such file, or it is no trace.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            meta = json.loads(bytes(arrays["meta"]).decode())
            if meta["format"] != FORMAT or meta["version"] != VERSION:
                raise UsageError(f"{path}: a trace of version {meta['version']}, this reads version {VERSION}")
            layers = []
            for index, (experts, top_k, nbytes) in enumerate(meta["layers"]):
                scores = arrays[f"scores_{index}"]
                raw, weigh = (arrays[n] if (n := f"{name}_{index}") in arrays else scores for name in ("raw", "weigh"))
                exact, touched = arrays[f"exact_{index}"], arrays[f"touched_{index}"]
                guess = arrays.get(f"guess_{index}")
                layers.append(LayerTrace(experts, top_k, nbytes, scores, raw, weigh, exact, touched, guess))
            slots = tuple(meta["slots"])
            return Trace(meta["model"], meta["name"], tuple(layers), meta["setting"], slots, meta["counted"])
    except FileNotFoundError:
        raise UsageError(f"no trace at {path}: record one with `moe-mlx eval --trace {path}`") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no trace of moe-mlx: {error}") from error


@dataclass
class Recorder:
    """Collects decode events.

    Attributes:
        layers: Experts, top-k and expert bytes of each layer.
        keep_scores: Whether scores are kept, which a trace needs; Belady needs choices only.
    """

    layers: Sequence[tuple[int, int, int]]
    keep_scores: bool = True
    events: list[list[Event]] = field(init=False)
    choices: list[list[tuple[int, ...]]] = field(init=False)

    def __post_init__(self) -> None:
        self.events = [[] for _ in self.layers]
        self.choices = [[] for _ in self.layers]

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        experts = self.layers[event.index][0]
        self.choices[event.index].append(tuple(e for e in dict.fromkeys(event.exact) if e < experts))
        if self.keep_scores:
            self.events[event.index].append(event)

    def trace(
        self, model: str, name: str, setting: dict[str, Any], slots: Sequence[int], counted: dict[str, int]
    ) -> Trace:
        """Returns what was recorded; arguments as in `Trace`.

        Raises:
            UsageError: this model's router is not known, so there are no scores.
        """
        layers = []
        for (experts, top_k, nbytes), events in zip(self.layers, self.events, strict=True):
            if not events or not events[0].scores.size:
                raise UsageError(f"{name}: this model's router is not known, so there are no scores to trace")
            scores = np.stack([event.scores for event in events])
            raw, weigh = (_unless_equal(scores, [getattr(e, part) for e in events]) for part in ("raw", "weigh"))
            exact = np.array([event.exact for event in events], dtype=np.int32)
            width = max(len(event.touched) for event in events)
            touched = np.full((len(events), width), -1, dtype=np.int32)
            for row, event in zip(touched, events, strict=True):
                row[: len(event.touched)] = event.touched
            early = [event.guess for event in events if event.guess is not None]
            guess = np.stack(early) if len(early) == len(events) else None
            layers.append(LayerTrace(experts, top_k, nbytes, scores, raw, weigh, exact, touched, guess))
        return Trace(model, name, tuple(layers), setting, tuple(slots), counted)


def _unless_equal(scores: Matrix, rows: list[Matrix]) -> Matrix:
    other = np.stack(rows)
    return scores if np.array_equal(other, scores) else other
