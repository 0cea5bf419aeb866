"""What both ways of decoding must do alike though light experts are late or coarse, whatever comes in between."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
from hypothesis import strategies as st
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.expert_cache.eviction import EVICTIONS
from moe_mlx.routing.light import LightRule
from tests.native.conftest import counts, loaded, state
from tests.native.runs import POLICIES, same, talk

COUNTED = (
    "late",
    "late_weight",
    "read_waits",
    "waits_saved",
    "coarse",
    "coarse_weight",
    "promotions",
    "coarse_bytes",
    "rest_bytes",
)


def outcome(model: Any, runtime: Any, turns: int = 1) -> tuple[Any, ...]:
    outputs = talk(model, turns)
    totals = runtime.stats.decode
    return outputs, state(runtime), counts(runtime), tuple(getattr(totals, name) for name in COUNTED)


def assert_alike(left: tuple[Any, ...], right: tuple[Any, ...]) -> None:
    assert same(left[0], right[0])
    assert left[1:] == right[1:]


def changes(*lights: str) -> st.SearchStrategy[tuple[str, Any]]:
    """Returns what may come in between, light experts in one of those modes among it."""
    return st.one_of(
        st.tuples(st.just("talk"), st.integers(1, 4)),
        st.tuples(st.just("resize"), st.sampled_from(["37.5%", "50%", "75%", "100%"])),
        st.tuples(st.just("light"), st.tuples(st.sampled_from(lights), st.floats(0, 1))),
        st.tuples(st.just("distance"), st.integers(1, 5)),
        st.tuples(st.just("policy"), st.sampled_from(list(POLICIES))),
        st.tuples(st.just("evict"), st.sampled_from(list(EVICTIONS))),
        st.tuples(st.just("reset"), st.none()),
        st.tuples(st.just("unused"), st.none()),
        st.tuples(st.just("switch"), st.none()),
        st.tuples(st.just("broken off"), st.integers(0, 4)),
        st.tuples(st.just("prompt"), st.integers(2, 30)),
    )


class Pair:
    """One model that decodes both ways in turn and one that reads back, told the same."""

    def __init__(self, folder: Path, light: str, cap: str = "50%") -> None:
        self.light, self.cap = light, cap
        self.models = [
            loaded(folder, way, cap, light=light, prefetch="on" if way == "native" else "off")
            for way in ("native", "readback")
        ]

    def begin(self) -> None:
        for _, _, runtime in self.models:
            runtime.use_decode("native" if runtime.layers.native is not None else "readback")
            runtime.resize(self.cap)
            runtime.set_eviction("lru")
            runtime.set_routing(routing="exact", light=self.light, light_beyond=0.6, light_distance=1)
            runtime.reset()
        self.caches = [make_prompt_cache(model) for model, _, _ in self.models]
        self.chance = random.Random(7)

    def apply(self, change: str, value: Any) -> None:
        tokens = [self.chance.randrange(5, 90) for _ in range(30)]
        for place, (model, _, runtime) in enumerate(self.models):
            cache = self.caches[place]
            if change == "talk":
                for token in tokens[: 3 * value]:
                    mx.async_eval(model(mx.array([[token]]), cache=cache))
            elif change == "prompt":
                mx.eval(model(mx.array([tokens[:value]]), cache=cache))
            elif change == "resize":
                runtime.resize(value)
            elif change == "light":
                runtime.light_by(LightRule(*value, runtime.layers[0].lateness.rule.distance))
            elif change == "distance":
                rule = runtime.layers[0].lateness.rule
                runtime.light_by(LightRule(rule.mode, rule.beyond, value))
            elif change == "policy":
                rule = runtime.layers[0].lateness.rule
                runtime.set_routing(**POLICIES[value])
                runtime.light_by(rule)
            elif change == "evict":
                runtime.set_eviction(value)
            elif change == "reset":
                runtime.reset()
            elif change == "unused":
                model(mx.array([[tokens[0]]]), cache=make_prompt_cache(model))
                runtime.drain()
            elif change == "switch" and runtime.layers.native is not None:
                runtime.use_decode("readback" if runtime.decode_way == "native" else "native")
            elif change == "broken off":
                self._break_off(model, runtime, value, tokens[0])

    @staticmethod
    def _break_off(model: Any, runtime: Any, layer: int, token: int) -> None:
        """An interrupt in a layer's attention: what the layers before it owe is taken by nobody."""
        attention = model.model.layers[layer].self_attn
        kind = type(attention)
        attention.__class__ = type("Interrupted", (kind,), {"__call__": _interrupted})
        try:
            model(mx.array([[token]]), cache=make_prompt_cache(model))
        except KeyboardInterrupt:
            pass
        finally:
            attention.__class__ = kind
        runtime.drain()
        runtime.layers.counter.begin_anew()

    def alike(self) -> bool:
        cache = self.caches
        ends = [mx.array([[11]])] * 2
        left, right = (model(end, cache=own) for (model, _, _), end, own in zip(self.models, ends, cache, strict=True))
        tables = [state(runtime) for _, _, runtime in self.models]
        for _, _, runtime in self.models:
            runtime.layers.ledger.collect(closing=True)
        totals = [runtime.stats.decode for _, _, runtime in self.models]
        told = [[getattr(one, name) for name in ("hits", "misses", "swapped", *COUNTED)] for one in totals]
        return bool(mx.array_equal(left, right)) and tables[0] == tables[1] and told[0] == told[1]


def _interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt
