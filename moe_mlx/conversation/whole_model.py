"""A model that several machines run, seen from rank 0 as one: its layers, counts and map; and each rank's own."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moe_mlx.conversation.figures import MAP, empty_map, figures_of, map_of, packed, unpacked
from moe_mlx.counts.totals import NAMES, PhaseTotals
from moe_mlx.loading.runtime import Runtime
from moe_mlx.machines.meeting import Meeting

#: Counters of bytes, which ranks that share each expert's rows add up; the others are the same at each.
_BYTES = ("bytes_read", "wasted_bytes", "coarse_bytes", "rest_bytes")
_LISTS = ("slots_per_layer", "low_slots_per_layer", "layers")


def together(rows: Sequence[Mapping[str, Any]], *, by_layers: bool) -> PhaseTotals:
    """Returns what ranks counted in one phase as one machine would have counted it.

    Args:
        rows: Each rank's counters by name, by rank.
        by_layers: Whether each has layers of its own; else all share each expert.
    """
    totals = [PhaseTotals(**{name: row[name] for name in NAMES}) for row in rows]
    first = totals[0]
    if by_layers:
        return replace(sum(totals, PhaseTotals()), steps=first.steps, tokens=first.tokens)
    return replace(first, **{name: sum(getattr(one, name) for one in totals) for name in _BYTES})


class WholeModel:
    """The model behind a group, at rank 0. Any thread may ask; nothing here waits for another machine.

    Attributes:
        parts: Each rank's facts (`figures.facts_of`), by rank.
    """

    def __init__(
        self, runtime: Runtime, meeting: Meeting, parts: Sequence[Mapping[str, Any]], *, by_layers: bool
    ) -> None:
        self.runtime, self.meeting, self.parts, self.by_layers = runtime, meeting, list(parts), by_layers
        ranks = range(len(self.parts)) if by_layers else range(1)
        #: The ranks in the order of their layers.
        self._order = sorted(ranks, key=lambda rank: self.parts[rank]["layers"][0])

    def facts(self) -> dict[str, Any]:
        """Returns what does not change about all MoE layers, and which rank has each of them."""
        names = ("layers", "experts", "top_k", "expert_bytes")
        found = {name: [value for rank in self._order for value in self.parts[rank][name]] for name in names}
        ranks = [rank for rank in self._order for _ in self.parts[rank]["layers"]] if self.by_layers else []
        if not self.by_layers:  # each part's experts are some rows of them
            found["expert_bytes"] = [sum(sizes) for sizes in zip(*(p["expert_bytes"] for p in self.parts), strict=True)]
        return {**found, "ranks": ranks}

    def figures(self) -> dict[str, Any]:
        """Returns counts as one machine would have them, rank 0's memory, and what each rank has, under `machines`."""
        return self._merged(self._each())

    def with_map(self) -> dict[str, Any]:
        """Returns the same with the map of all layers; ranks that have not sent theirs yet seem empty."""
        self.meeting.pulse.look()
        each = self._each()
        maps = [map_of(self.runtime) if rank == 0 else self._map(rank) for rank in self._order]
        whole = {name: packed(np.concatenate([unpacked(one, name) for one in maps])) for name in MAP}
        return {**self._merged(each), **whole}

    def machines(self) -> list[dict[str, Any]]:
        """Returns what each rank has counted since it loaded, its memory, and for how long it was not heard."""
        return self._rows(self._each())

    def _each(self) -> list[dict[str, Any]]:
        """Returns every rank's figures; those that were not sent yet are zeros."""
        own = figures_of(self.runtime)
        nothing = {
            **own,
            "decode": PhaseTotals().as_dict(),
            "prefill": PhaseTotals().as_dict(),
            "memory": dict.fromkeys(own["memory"], 0),
        }
        found = [own]
        for rank in range(1, len(self.parts)):
            count = len(self.parts[rank]["layers"])
            absent = {"slots_per_layer": [0] * count, "low_slots_per_layer": [0] * count, "layers": [[0, 0]] * count}
            told = self.meeting.pulse.latest.get(rank, {})
            found.append({**nothing, **absent, **(told if _sound(told, own, count) else {})})
        return found

    def _merged(self, each: list[dict[str, Any]]) -> dict[str, Any]:
        lists = {name: [value for rank in self._order for value in each[rank][name]] for name in _LISTS}
        phases = {
            phase: dict(together([one[phase] for one in each], by_layers=self.by_layers).as_dict())
            for phase in ("decode", "prefill")
        }
        return {**each[0], **lists, **phases, "machines": self._rows(each)}

    def _rows(self, each: list[dict[str, Any]]) -> list[dict[str, Any]]:
        named = self.meeting.launch.named
        return [
            {
                "rank": rank,
                "machine": named(rank),
                "layers": [self.parts[rank]["layers"][0], self.parts[rank]["layers"][-1]],
                "decode_way": one["decode_way"],
                "decode": one["decode"],
                "prefill": one["prefill"],
                "memory": one["memory"],
                "silent_seconds": round(self.meeting.pulse.silence(rank), 1) if rank else 0.0,
            }
            for rank, one in enumerate(each)
        ]

    def _map(self, rank: int) -> dict[str, str]:
        """Returns a rank's map as it was sent last, or an empty one where it was not, or is of another model."""
        told, experts = self.meeting.pulse.latest.get(rank, {}), sum(self.parts[rank]["experts"])
        try:
            if all(unpacked(told, name).size == experts for name in MAP):
                return {name: told[name] for name in MAP}
        except (KeyError, TypeError, ValueError, zlib.error):
            pass
        return empty_map(experts)


def _sound(told: Mapping[str, Any], own: Mapping[str, Any], layers: int) -> bool:
    """Returns whether what a rank sent are figures of so many layers, with all that ours have."""
    try:
        counters = [told[phase][name] for phase in ("decode", "prefill") for name in own[phase]]
        counters += [told["memory"][name] for name in own["memory"]]
        counters += [number for pair in told["layers"] for number in (*pair, len(pair))]
        lists = all(len(told[name]) == layers for name in _LISTS)
        return lists and isinstance(told["decode_way"], str) and all(isinstance(one, int | float) for one in counters)
    except (KeyError, TypeError):
        return False
