"""The module that stands where mlx-lm has a `SwitchGLU` or `SwitchMLP`: same call, experts from a capped cache.

The original module does the arithmetic, its stacked tensors replaced by the layer's slot bank and expert numbers by
slot numbers (mlx_lm/models/switch_layers.py), so activations, biases and quantisation modes are mlx-lm's own.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from moe_mlx.counts.event_log import DECODE, PREFILL
from moe_mlx.expert_cache.gradient import run_for_gradient
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.prefill import run_prompt
from moe_mlx.routing.light import LightExperts

#: Rows of a batch, or tokens verified together, whose step may run in the graph.
MOST_ROWS = 8


def rows_of(indices: mx.array) -> int:
    """Returns how many (row, position) pairs a routing `[..., k]` is for."""
    return indices.size // indices.shape[-1]


def fits_in_graph(x: mx.array, indices: mx.array, slots: int) -> bool:
    """Tells whether a call has few rows, whose experts have slots together, whichever they are.

    It is a batch's decode step, a few drafted tokens to be verified, or a short prompt; each is exact.

    Args:
        x: `[B, 1, D]` in a batch's decode step, `[1, L, D]` of one sequence, or `[B, D]` flattened.
        indices: `[B, 1, k]`, `[1, L, k]`, or `[B, k]`.
        slots: Of the layer, those of pinned experts left out.
    """
    rows = x.size // x.shape[-1] if x.ndim == 2 or (x.ndim == 3 and 1 in x.shape[:2]) else 0
    return 1 < rows <= MOST_ROWS and rows_of(indices) == rows and indices.size <= slots


class CappedSwitch(nn.Module):
    """Routed experts of one layer under a cap.

    The cache hangs on a plain attribute: banks are no parameters of the model, so nothing loads, saves, counts or
    adapts them.
    """

    def __init__(self, cache: LayerCache) -> None:
        super().__init__()
        self.cache = cache
        projections = {spec.name.partition(".")[0] for spec in cache.spec.tensors}
        for name, part in cache.inner.items():
            if name not in projections:  # muse_spark keeps a norm among its experts
                self[name] = part
        self.eval()  # a module of MLX begins in training

    def __call__(self, x: mx.array, indices: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        """Computes the routed experts.

        Args:
            x: `[..., D]` inputs.
            indices: `[..., k]` expert numbers, as chosen by the model or returned by `select`. What is not
                stored (longcat's identity experts, numbered after the stored ones) is neither read nor counted, and
                its output is arbitrary.
            *args: Passed on to the original module.
            **kwargs: Passed on to the original module.

        Returns:
            `[..., k, D]`, the outputs in the order of `indices`.

        Raises:
            ExpertReadError: an expert could not be read; the cache stays consistent.
        """
        cache = self.cache
        if cache.aside is not None:
            return cache.aside(cache, x, indices, *args, **kwargs)
        selected, cache.selected = cache.selected, None
        native = cache.in_graph
        if selected is not None and selected[0] is indices:
            cache.counter.check_thread()
            slots = selected[1]
        elif cache.full:
            return self._whole(x, indices, *args, **kwargs)
        elif self.training:
            cache.counter.enter(cache.spec.index)
            return run_for_gradient(cache, x, mx.stop_gradient(indices), *args, **kwargs)
        elif native is not None and fits_in_graph(x, indices, cache.table.free):
            cache.counter.enter(cache.spec.index)
            slots = native.rows(indices)
        elif rows_of(indices) > 1:
            cache.counter.enter(cache.spec.index)
            return run_prompt(cache, x, indices, *args, **kwargs)
        elif native is not None:
            cache.counter.enter(cache.spec.index)
            raw, cache.scores_to_come = cache.scores_to_come, None
            slots = native.step(indices, raw=raw).slots
        else:
            cache.claim()
            cache.counter.enter(cache.spec.index)
            raw, cache.scores_to_come = cache.scores_to_come, None
            experts: list[int] = indices.reshape(-1).tolist()
            distinct = cache.stored(dict.fromkeys(experts))
            if raw is not None:
                cache.tell_eviction(np.array(raw).reshape(-1))
            self._record_exact(experts, distinct)
            slots = self._slots(cache.decode(experts, distinct, 0, 0.0), indices)
        if native is None:
            cache.bank.wait_for_queued()
        y = cache.compute(x, slots, *args, **kwargs)
        cache.bank.using(y)
        cache.lateness.entered(x, args, kwargs)
        return y

    def _set_training_mode(self, mode: bool) -> None:
        """MLX calls it for `model.train()`; the experts' own module hears it too, though it is no part of this one."""
        super()._set_training_mode(mode)
        self.cache.inner.train(mode)

    def _whole(self, x: mx.array, indices: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        """Every expert has the slot of its own number: nothing to look up, nothing to read back.

        A prompt's routing is not looked at here, so neither hit nor miss is counted for it.
        """
        cache = self.cache
        step = cache.counter.enter(cache.spec.index, alone=False)
        rows = rows_of(indices)
        if rows == 1:
            if cache.recorder is not None:
                experts: list[int] = indices.reshape(-1).tolist()
                self._record_exact(experts, cache.stored(dict.fromkeys(experts)))
                indices = mx.where(indices < cache.table.experts, indices, 0)
            cache.log.write(step, DECODE, tokens=1, hits=indices.size, choices=indices.size)
        else:
            cache.log.write(step, PREFILL, tokens=rows, choices=indices.size)
        return cache.inner(x, indices, *args, **kwargs)

    def _record_exact(self, experts: list[int], distinct: list[int]) -> None:
        """Hands an exactly routed token to the recorder; its scores are empty where the router is not known."""
        cache = self.cache
        observed, cache.observed = cache.observed, None
        if cache.recorder is not None:
            parts = observed or (mx.zeros(0),) * 3
            scores, raw, weigh = (np.array(part).reshape(-1) for part in parts)
            cache.record(scores, raw, weigh, experts, distinct)

    @staticmethod
    def _slots(slots: list[int], like: mx.array) -> mx.array:
        return mx.array(slots, dtype=like.dtype).reshape(*like.shape[:-1], len(slots))

    def guess_next(self, x: mx.array) -> None:
        """Lets the next layer's router guess from this layer's input, for prefetch or a recorder; tells who listens."""
        cache = self.cache
        native, next_layer = cache.in_graph, cache.next_layer
        one_row = cache.aside is None and x.size == x.shape[-1]
        if cache.on_input is not None and one_row:
            cache.on_input(x)
        if native is not None:
            native.guess_next(x if one_row else None)
        elif cache.recorder is not None and one_row and next_layer is not None and next_layer.router is not None:
            next_layer.guess_scores = next_layer.router(x).astype(mx.float32)

    def routes(self, indices_rows: int) -> bool:
        """Whether a call of that many rows may be routed by the policy: decode, a lossy policy, not all resident."""
        return indices_rows == 1 and self.cache.lossy and self.cache.aside is None

    def observe(self, scores: mx.array, *, raw: mx.array | None = None, weigh: mx.array | None = None) -> None:
        """Notes the scores of rows that are routed exactly; arguments as for `select`.

        Under a lossy policy their ranges count for later decode steps; a recorder and an eviction that knows the router
        get the scores of decode steps.
        Costs nothing otherwise: what is not needed is never evaluated.
        """
        cache = self.cache
        if cache.aside is not None:
            return
        raw = scores if raw is None else raw
        if cache.lossy:
            wide = raw.astype(mx.float32)
            finite = mx.isfinite(wide)
            top = mx.where(finite, wide, -mx.inf).max(axis=-1)
            cache.spans.append((top - mx.where(finite, wide, mx.inf).min(axis=-1)).reshape(-1))
        if rows_of(scores) > 1:
            return
        if cache.wants_scores:
            cache.scores_to_come = raw.astype(mx.float32)
        if cache.recorder is not None:
            parts = (scores, raw, scores if weigh is None else weigh)
            cache.observed = tuple(part.astype(mx.float32) for part in parts)

    def select(
        self,
        scores: mx.array,
        exact: mx.array,
        *,
        raw: mx.array | None = None,
        weigh: mx.array | None = None,
        weights: mx.array | None = None,
        shares: mx.array | None = None,
    ) -> mx.array:
        """Routes one token by the layer's policy and brings its experts in.

        Args:
            scores: `[..., E]`, what the model ranks by; minus infinity where it rules an expert out.
            exact: `[..., k]`, the model's own choice in its own order.
            raw: `[..., E]`, the scores before groups were masked, where that differs.
            weigh: `[..., E]`, what the model weighs by, where that orders experts differently from `scores`.
            weights: `[..., k]`, the model's weights of `exact`; for the count of weight moved.
            shares: `[..., E]`, what each expert would weigh, up to a common factor; where it matters who is light, and
                the router knows it.

        Returns:
            `[..., k]`: `exact` itself where the set is unchanged, else the chosen experts by descending score. To be
            passed to this module's call as it is.
        """
        cache = self.cache
        cache.counter.enter(cache.spec.index)
        if (native := cache.in_graph) is not None:
            taken = native.step(exact, scores=scores, raw=raw, weigh=weigh, weights=weights, shares=shares)
            cache.selected = taken.chosen, taken.slots
            cache.lateness.take(taken.split, taken.late_slots)
            return taken.chosen
        cache.claim()
        given = {"scores": scores, "raw": raw, "weigh": weigh, "weights": weights, "shares": shares}
        wide = {name: part.astype(mx.float32) for name, part in given.items() if part is not None}
        mx.eval(wide, exact, cache.spans)
        rows = {name: np.array(part).reshape(-1) for name, part in wide.items()}
        z = rows["scores"]
        z_raw, z_weigh, own = rows.get("raw", z), rows.get("weigh", z), rows.get("weights")
        shared = rows["shares"].tolist() if shares is not None else None
        experts: list[int] = exact.reshape(-1).tolist()
        choice = cache.choose(z, experts, z_raw)
        order = cache.stored(sorted(choice.experts, key=lambda expert: (-z_weigh[expert], expert)))
        moved = 0.0 if own is None else float(sum(own[experts.index(lost)] for lost in choice.displaced))
        cache.record(z, z_raw, z_weigh, experts, order)
        light = cache.lateness.pick(order, shared)
        owes = cache.lateness.may_owe
        slots = cache.decode(choice.experts, order, choice.swapped, moved, light)
        chosen = exact if choice.experts is experts else self._slots(choice.experts, exact)
        cache.selected = (chosen, self._slots(slots, exact))
        cache.lateness.take(
            self._split(choice.experts, (order or choice.experts)[0], light, exact) if owes else None,
            None if cache.lateness.expected() is None else self._slots(cache.lateness.earlier_slots, exact),
        )
        return chosen

    def _split(
        self, experts: list[int], heaviest: int, light: LightExperts, like: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Returns which experts are there, and the places of the late ones; the heaviest fills up the rows."""
        places = [experts.index(expert) for expert in light.late]
        places += [experts.index(heaviest)] * (self.cache.lateness.rows - len(places))
        return self._slots([expert not in light.late for expert in experts], like), self._slots(places, like)
