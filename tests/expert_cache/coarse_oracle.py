"""Coarse experts restated on mlx-lm's own Qwen3-MoE model: weights dequantised by hand, residency in plain lists."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from tests.expert_cache.restated import Restated


def coarse_weights(linear: Any, low_bits: int) -> mx.array:
    """Returns `[E, O, I]`: each code's low bits at the middle of what they may be; the weights as they are without."""
    factor = 1 << low_bits
    ones, none = mx.ones_like(linear.scales), mx.zeros_like(linear.scales)
    q = mx.dequantize(linear.weight, ones, none, group_size=linear.group_size, bits=linear.bits)
    middle = mx.floor(q / factor) * factor + (factor - 1) / 2
    spread = [mx.repeat(of, linear.group_size, axis=-1) for of in (linear.scales, linear.biases)]
    return spread[0] * middle + spread[1]


class CoarseOracle(Restated):
    """Every expert is there; what a layer would hold is kept by hand, the least recently used first."""

    def __init__(self, model: Any, slots: int, low: int, beyond: float, low_bits: int = 2, down: int = 2) -> None:
        self.blocks = [layer.mlp for layer in model.layers if "switch_mlp" in layer.mlp]
        self.slots, self.low, self.beyond = slots, low, beyond
        cuts = {"gate_proj": low_bits, "up_proj": low_bits, "down_proj": down}
        self.coarse_of = [
            {name: coarse_weights(block.switch_mlp[name], cut) for name, cut in cuts.items()} for block in self.blocks
        ]
        #: By layer: the clock of what is whole, and of what has its high bits alone.
        self.whole: list[dict[int, int]] = [{} for _ in self.blocks]
        self.high: list[dict[int, int]] = [{} for _ in self.blocks]
        self.clock = 0
        self.read = {"whole": 0, "coarse": 0, "rest": 0}
        self.coarse = 0
        self.coarse_weight = 0.0

    def block(self, block: Any, x: mx.array) -> mx.array:
        """Computes one token as `Qwen3MoeSparseMoeBlock` does, but for who is coarse."""
        place = next(i for i, known in enumerate(self.blocks) if known is block)
        k = block.top_k
        gates = mx.softmax(block.gate(x), axis=-1, precise=True)
        chosen = mx.argpartition(gates, kth=-k, axis=-1)[..., -k:]
        weights = mx.take_along_axis(gates, chosen, axis=-1)
        weights = weights / weights.sum(axis=-1, keepdims=True)
        experts, own = np.array(chosen).reshape(-1).tolist(), np.array(weights, dtype=np.float64).reshape(-1)
        order = sorted(range(k), key=lambda i: (-own[i], experts[i]))
        coarse, before = [], 0.0
        for rank, i in enumerate(order):
            if rank and before > self.beyond * own.sum() and experts[i] not in self.whole[place]:
                coarse.append(i)
            before += own[i]
        self.coarse += len(coarse)
        self.coarse_weight += float(own[coarse].sum() / own.sum())
        self._bring_in(place, [experts[i] for i in order], {experts[i] for i in coarse})
        y = block.switch_mlp(x, chosen)
        rows = [self._coarse_output(place, experts[i], x) if i in coarse else y[0, 0, i] for i in range(k)]
        return (mx.stack(rows)[None, None] * weights[..., None]).sum(axis=-2)

    def _coarse_output(self, place: int, expert: int, x: mx.array) -> mx.array:
        of = {name: weights[expert] for name, weights in self.coarse_of[place].items()}
        row = x.reshape(-1)
        gate, up = of["gate_proj"] @ row, of["up_proj"] @ row
        found: mx.array = of["down_proj"] @ (gate * mx.sigmoid(gate) * up)
        return found

    def _bring_in(self, place: int, order: list[int], coarse: set[int]) -> None:
        whole, high = self.whole[place], self.high[place]
        stamps = {}
        for expert in order:
            self.clock += 1
            stamps[expert] = self.clock
            for held in (whole, high):
                if expert in held:
                    held[expert] = self.clock
        for expert in order:
            if expert in whole or (expert in high and expert in coarse):
                continue
            if expert in coarse:
                self.read["coarse"] += 1
                if len(high) == self.low:
                    del high[min(high, key=high.__getitem__)]
                high[expert] = stamps[expert]
                continue
            promoted = high.pop(expert, None) is not None
            self.read["rest" if promoted else "whole"] += 1
            if len(whole) == self.slots:
                loser = min(whole, key=whole.__getitem__)
                last = whole.pop(loser)
                if len(high) == self.low and min(high.values()) < last:
                    del high[min(high, key=high.__getitem__)]
                if len(high) < self.low:
                    high[loser] = last
            whole[expert] = stamps[expert]
