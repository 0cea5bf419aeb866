"""What a conversion shows to whoever can load models, before the first write: the converter itself knows none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.store.checkpoint import Shards
from moe_mlx.store.header import Entry
from moe_mlx.store.locate import Layout
from moe_mlx.store.spec import ExpertLayer


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint whose experts have been found.

    Attributes:
        root: Its folder.
        config: Its config.json.
        layers: Its MoE layers.
        expert_names: Tensors that hold routed experts.
        resident_shards: Its shards.
        weights: Lazy arrays of mlx-lm's making, where the store will hold those; None where it copies bytes.
        entries: Every tensor by name, where the shards have not arrived yet; else None.
    """

    root: Path
    config: Mapping[str, Any]
    layers: tuple[ExpertLayer, ...]
    expert_names: frozenset[str]
    resident_shards: tuple[Path, ...]
    weights: Mapping[str, Any] | None
    entries: Mapping[str, Entry] | None = None


#: Raises an error of ours where the store could not be loaded, tells the second argument what else is to be said, and
#: returns the tensors that loading would drop.
Prover = Callable[[Candidate, Callable[[str], None]], frozenset[str]]
#: The same for one checkpoint, told the layout and, where mlx-lm makes the tensors, its lazy arrays.
Check = Callable[[Layout, Mapping[str, Any] | None], frozenset[str]]


def check_with(prove: Prover | None, shards: Shards, say: Callable[[str], None]) -> Check:
    """Returns what asks the prover about a checkpoint, once its experts have been found; without one, nothing does."""

    def check(layout: Layout, weights: Mapping[str, Any] | None) -> frozenset[str]:
        if prove is None:
            return frozenset()
        layers = tuple(located.layer for located in layout.layers)
        entries = None if shards.headers else {name: located.entry for name, located in shards.tensors.items()}
        return prove(
            Candidate(shards.root, shards.config, layers, layout.expert_names, shards.files, weights, entries), say
        )

    return check
