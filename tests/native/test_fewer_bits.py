"""Experts of 2, 3 and 4 bits, in the graph and read back: the same logits, tables and counts, bytes among them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fewer_bits import drawn_store
from tests.native.conftest import counts, loaded, state
from tests.native.runs import POLICIES, same, talk


@pytest.fixture(scope="module")
def store(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_store(tiny(store=False), tmp_path_factory.mktemp("fewer") / "store")


@pytest.mark.parametrize(
    "options", [{"policy": "exact"}, {"policy": "cache-prior", "evict": "lfu"}, {"prefetch": "on"}]
)
def test_both_ways_are_alike(native: Any, store: Path, options: dict[str, str]) -> None:
    more = {**options, **POLICIES[options.get("policy", "exact")]}
    more.pop("policy", None)
    runs = []
    for way in ("native", "readback"):
        asked = {**more, "prefetch": more.get("prefetch", "off") if way == "native" else "off"}
        model, _, runtime = loaded(store, way, "25%", **asked)
        outputs = talk(model)
        totals = runtime.stats.decode
        runs.append((outputs, state(runtime), counts(runtime), totals.bytes_read))
        if asked["prefetch"] == "on":
            assert totals.hint_hits > 0
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]


def test_late_experts_and_batches(native: Any, store: Path) -> None:
    import mlx.core as mx

    runs = []
    for way in ("native", "readback"):
        model, _, runtime = loaded(store, way, "25%", light="late", light_beyond=0.2)
        outputs = [*talk(model), model(mx.array([[3], [4], [5]])), model(mx.array([[6], [7], [8]]))]
        mx.eval(outputs)
        decode = runtime.stats.decode
        runs.append((outputs, state(runtime), decode.late, decode.bytes_read, runtime.stats.prefill.bytes_read))
    assert runs[0][2] > 0
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]
