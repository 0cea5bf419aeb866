"""Which experts a measurement of the disk reads: events of a decode step's size, no expert twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moe_mlx.store import ExpertSource

#: Descriptors that the plain reader holds open at most; a sample has no more files.
MOST_FILES = 900


@dataclass(frozen=True, slots=True)
class Event:
    """Experts of one layer that are read together, as the misses of a decode step are."""

    index: int
    experts: tuple[int, ...]


def sample_events(source: ExpertSource, batch: int, nbytes: int, seed: int = 0) -> list[Event]:
    """Returns events over random layers, no expert twice, of about `nbytes` in all.

    Only layers laid out like the first take part, so that one bank serves them all.
    """
    first = source.layers[0]
    layers = [layer for layer in source.layers if layer.tensors == first.tensors]
    rng = np.random.default_rng(seed)
    events: list[Event] = []
    for layer in layers:
        order = rng.permutation(layer.experts).tolist()
        events += [Event(layer.index, tuple(order[at : at + batch])) for at in range(0, len(order) - batch + 1, batch)]
    picked = [events[place] for place in rng.permutation(len(events))]
    most = min(max(1, nbytes // (batch * first.expert_nbytes)), MOST_FILES // batch)
    return picked[: int(most)]
