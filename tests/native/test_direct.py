"""Direct reads in the graph: the same bits, the same exceptions, and the same counts as through the page cache."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from moe_mlx.store import open_source
from moe_mlx.store.page_cache import page_cache_use
from tests.damage import FAULTS, damage_thirds, repair
from tests.native.conftest import counts, loaded, state
from tests.native.runs import steps


def needs_direct(runtime: Any) -> None:
    if runtime.io_way != "direct":
        pytest.skip(runtime.io_reason)


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize("store", [True, False], ids=["store", "in place"])
@pytest.mark.parametrize("way", ["native", "readback"])
@pytest.mark.parametrize("bounce", [2 << 20, 4096], ids=["one piece", "pieces"])
def test_the_same_bits_as_cached(
    native: Any, tiny: Callable[..., Path], store: bool, way: str, bounce: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("moe_mlx.store.access.BOUNCE_BYTES", bounce)
    model, _, runtime = loaded(tiny(store=store), way, io="direct")
    needs_direct(runtime)
    plain, _, cached = loaded(tiny(store=store), way)
    assert (cached.io_way, cached.plan.extra) == ("cached", 0)
    assert runtime.plan.extra == runtime.layers.pool.readers * bounce * (2 if way == "native" else 1)
    for ours, theirs in zip(steps(model), steps(plain), strict=True):
        assert mx.array_equal(ours, theirs)
    assert state(runtime) == state(cached)
    assert counts(runtime) == counts(cached)
    assert runtime.stats.reads.io == "direct"
    assert runtime.source.layers[0].expert_nbytes > 2 * 4096
    for cache in runtime.layers:  # what the readers put there, against another reader
        for expert, slot in enumerate(cache.table.slot_of):
            if slot >= 0:
                wanted = [memoryview(bytearray(spec.nbytes)) for spec in cache.spec.tensors]
                cached.source.read_into(cache.spec.index, expert, wanted)
                assert cache.bank.buffers(slot) == wanted


def test_the_primitive_leaves_no_page_in_the_page_cache(native: Any, tiny: Callable[..., Path]):
    with open_source(tiny()) as source:
        source.drop_cached()
        if (use := page_cache_use(source)) is None or use.nbytes:
            pytest.skip(f"this file system keeps what it was asked to drop, or does not tell: {use}")
        model, _, runtime = loaded(tiny(), "native", io="direct")
        needs_direct(runtime)
        by_python = runtime.layers.pool.log.counts[0]  # of the self-check
        steps(model)
        assert runtime.layers.pool.log.counts[0] == by_python
        assert runtime.stats.reads.reads == runtime.stats.decode.misses > 0
        use = page_cache_use(source)
        assert use is not None and use.nbytes == 0
        cached, _, _ = loaded(tiny(), "native")
        steps(cached)
        use = page_cache_use(source)
        assert use is not None and use.nbytes > 0


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_same_exception_as_cached(native: Any, tiny: Callable[..., Path], tmp_path: Path, fault: str):
    told = []
    for io, way in (("cached", "native"), ("direct", "native"), ("direct", "readback")):
        store = tmp_path / "store"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(tiny(), store)
        model, _, runtime = loaded(store, way, routing="exact", io=io)
        steps(model, tokens=3)
        damage_thirds(store, fault, runtime)
        with pytest.raises(Exception, match="layer") as error:
            steps(model)
        told.append((type(error.value), str(error.value)))
        state(runtime)
        repair(store, tiny())
        steps(model)
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("store", [True, False], ids=["store", "in place"])
def test_where_direct_reads_are_refused(
    native: Any, tiny: Callable[..., Path], store: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("moe_mlx.store.probe.direct_alignment", lambda fd: None)
    model, _, runtime = loaded(tiny(store=store), "native", io="direct")
    assert runtime.io_way in ("dropped", "cached") and "no direct reads of" in runtime.io_reason
    runtime.source.drop_cached()
    use = page_cache_use(runtime.source)
    outputs = steps(model)
    if store and runtime.io_way == "dropped" and use is not None and use.nbytes == 0:
        after = page_cache_use(runtime.source)
        assert after is not None and after.nbytes == 0
    plain, _, cached = loaded(tiny(store=store), "native")
    for ours, theirs in zip(outputs, steps(plain), strict=True):
        assert mx.array_equal(ours, theirs)
    assert state(runtime) == state(cached)


@pytest.mark.parametrize("way", ["native", "readback"])
@pytest.mark.parametrize("io", ["cached", "direct"])
def test_reads_are_counted(native: Any, tiny: Callable[..., Path], way: str, io: str):
    model, _, runtime = loaded(tiny(), way, io=io)
    assert runtime.stats.reads.reads == 0
    steps(model)
    reads, decode = runtime.stats.reads, runtime.stats.decode
    assert (reads.reads, reads.bytes) == (decode.misses, decode.bytes_read)
    assert 1 <= reads.depth_mean <= reads.depth_max <= runtime.layers.pool.readers
    assert 0 < reads.p50_us <= reads.p95_us <= reads.p99_us < 60e6
    runtime.stats.reset()
    assert runtime.stats.reads.reads == runtime.stats.reads.depth_max == 0


def test_reads_of_resident_layers_are_not_a_steps(native: Any, tiny: Callable[..., Path]):
    _, _, runtime = loaded(tiny(), "readback", "100%")
    assert (all(cache.full for cache in runtime.layers), runtime.stats.reads.reads) == (True, 0)
