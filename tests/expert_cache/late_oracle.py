"""Late experts restated on mlx-lm's own Qwen3-MoE model: its block in plain MLX, residency in a plain dictionary."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

import moe_mlx
from tests.expert_cache.restated import Restated


class LateOracle(Restated):
    """Every expert is there; which would have been is kept by hand, least recently used first."""

    def __init__(self, model: Any, slots: int, beyond: float, distance: int = 1, dropped: bool = False) -> None:
        self.blocks = [layer.mlp for layer in model.layers]
        self.slots, self.beyond, self.distance, self.dropped = slots, beyond, distance, dropped
        self.resident: list[OrderedDict[int, None]] = [OrderedDict() for _ in self.blocks]
        self.owed: dict[int, mx.array] = {}
        self.misses = self.late = self.waits = self.saved = 0
        self.late_weight = 0.0

    def block(self, block: Any, x: mx.array) -> mx.array:
        """Computes one token as `Qwen3MoeSparseMoeBlock` does, but for who is late."""
        place = next(i for i, known in enumerate(self.blocks) if known is block)
        k = block.top_k
        gates = mx.softmax(block.gate(x), axis=-1, precise=True)
        chosen = mx.argpartition(gates, kth=-k, axis=-1)[..., -k:]
        weights = mx.take_along_axis(gates, chosen, axis=-1)
        if block.norm_topk_prob:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        y = block.switch_mlp(x, chosen)
        experts, own = np.array(chosen).reshape(-1).tolist(), np.array(weights, dtype=np.float64).reshape(-1)
        order = sorted(range(k), key=lambda i: (-own[i], experts[i]))
        late, before, missed = [], 0.0, 0
        for i in order:
            absent = experts[i] not in self.resident[place]
            missed += absent
            light = before > self.beyond * own.sum() and place + self.distance < len(self.blocks)
            if absent and light and len(late) < k // 2:
                late.append(i)
            before += own[i]
        self._touch(place, [experts[i] for i in order])
        self.misses += missed
        self.late += len(late)
        self.late_weight += float(own[late].sum() / own.sum())
        self.waits += missed > len(late)
        self.saved += bool(missed) and missed == len(late)
        here = mx.array([i not in late for i in range(k)]).astype(weights.dtype)
        kept = weights * here
        if self.dropped:
            return (y * (kept / kept.sum())[..., None]).sum(axis=-2)
        out = (y * kept[..., None]).sum(axis=-2)
        if place in self.owed:
            out = out + self.owed.pop(place)
        self.owed[place + self.distance] = (y * (weights * (1 - here))[..., None]).sum(axis=-2)
        return out

    def _touch(self, place: int, experts: list[int]) -> None:
        resident = self.resident[place]
        for expert in experts:
            resident.pop(expert, None)
            resident[expert] = None
        while len(resident) > self.slots:
            resident.popitem(last=False)


def first_late(model: Any, index: int) -> tuple[int, list[int]]:
    """Returns an expert of MoE layer `index` whose very first read is late, and the tokens up to that step."""
    table, cache = moe_mlx.runtime_of(model).layers[index].table, make_prompt_cache(model)
    for token in range(5, 90):
        mx.eval(model(mx.array([[token]]), cache=cache))
        for expert in range(table.experts):
            if table.lates[expert] and table.reads[expert] == 1:
                return expert, list(range(5, token + 1))
    raise AssertionError("nobody was late")
