"""Coarse experts in the graph and by read-back: the same logits, tables and counters, whatever comes in between."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_mlx.errors import ExpertReadError
from moe_mlx.expert_cache.residency import QUARANTINED
from moe_mlx.store import codes
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.damage import damage_thirds, repair
from tests.native.conftest import loaded
from tests.native.pair import Pair, assert_alike, changes, outcome
from tests.native.runs import PAIRS, POLICIES, same, steps, talk

WAYS = ("native", "readback")
#: Where routers are and what they know differs most: weights known before the choice, by groups, by rank alone.
FAMILIES = ("mixtral", "deepseek_v3", "qwen3_next", "longcat_flash", "phimoe")


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Bits and row blocks -> a nested store of five layers whose tokens take six of sixteen experts."""
    from moe_mlx_convert import convert

    made: dict[tuple[int, int], Path] = {}

    def make(bits: int = 4, row_blocks: int = 1) -> Path:
        if (bits, row_blocks) not in made:
            folder = tmp_path_factory.mktemp("nested")
            shape = {"num_hidden_layers": 5, "num_experts_per_tok": 6}
            tiny_checkpoint("qwen3_moe", folder / "model", quantization={**AFFINE4, "bits": bits}, **shape)
            convert(folder / "model", folder / "store", nested=True, row_blocks=row_blocks, compare=False)
            made[bits, row_blocks] = folder / "store"
        return made[bits, row_blocks]

    return make


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize(("policy", "evict"), PAIRS)
def test_every_policy_and_eviction(native: Any, nested: Callable[..., Path], policy: str, evict: str):
    for cap, beyond, light in (("62.5%", 0.6, "coarse"), ("75%", 0.2, "late-coarse")):
        options = {**POLICIES[policy], "evict": evict, "light": light, "light_beyond": beyond}
        runs = []
        for way in WAYS:
            model, _, runtime = loaded(nested(), way, cap, **options)
            runs.append(outcome(model, runtime, 2))
            totals = runtime.stats.decode
            assert totals.read_backs == (0 if way == "native" else totals.waits)
            assert totals.whole_bytes >= 0 and any(runtime.layers.low_slots)
        assert_alike(*runs)
        assert totals.coarse > 0 or policy == "strong", "nobody was coarse: the comparison says nothing"


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize(
    ("bits", "row_blocks", "form"), [(4, 4, "2"), (6, 2, "2"), (8, 1, "2"), (4, 2, "2-down4"), (8, 4, "2-down4")]
)
def test_every_slot_holds_bits_of_the_store(
    native: Any, nested: Callable[..., Path], bits: int, row_blocks: int, form: str
):
    options = {"routing": "exact", "light": "coarse", "light_beyond": 0.3, "light_form": form}
    model, _, runtime = loaded(nested(bits, row_blocks), "native", "75%", **options)
    other, _, _ = loaded(nested(bits, row_blocks), "readback", "75%", **options)
    assert same(talk(model, 2), talk(other, 2))
    runtime.drain()
    assert runtime.stats.decode.promotions > 0
    met = [0, 0]
    for cache in runtime.layers:
        low = cache.bank.low
        assert low is not None
        for slot, expert in enumerate(cache.table.owner):
            if expert < 0:
                continue
            wanted = [np.zeros(spec.nbytes, np.uint8) for spec in cache.spec.tensors]
            runtime.source.read_into(cache.spec.index, expert, [memoryview(one) for one in wanted])
            coarse = slot >= cache.table.slots
            met[coarse] += 1
            found = low.bank.buffers(slot - cache.table.slots) if coarse else cache.bank.buffers(slot)
            for tensor, (whole, there) in enumerate(zip(wanted, found, strict=True)):
                cut = low.cut.get(tensor) if coarse else None
                assert there == (whole if cut is None else high_bits(cut, whole)).tobytes()
    assert min(met) > 0


def high_bits(cut: Any, whole: np.ndarray) -> np.ndarray:
    high, low = (np.zeros((1, whole.size * bits // cut.bits), np.uint8) for bits in (cut.high_bits, cut.low_bits))
    codes.split(cut, whole[None], high, low)
    return high[0]


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_families(native: Any, tmp_path: Path, family: str):
    from moe_mlx_convert import convert

    tiny_checkpoint(family, tmp_path / "model", quantization=AFFINE4)
    convert(tmp_path / "model", tmp_path / "store", nested=True, compare=False)
    runs = []
    for way in WAYS:
        model, _, runtime = loaded(tmp_path / "store", way, "75%", routing="exact", light="coarse", light_beyond=0.0)
        runs.append(outcome(model, runtime))
    assert_alike(*runs)
    assert runtime.stats.decode.coarse > 0


@pytest.fixture
def pair(native: Any, nested: Callable[..., Path]) -> Pair:
    return Pair(nested(), "coarse", "75%")


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(changes("coarse", "late-coarse", "late", "exact"), min_size=1, max_size=10))
def test_whatever_comes_in_between(pair: Pair, made: list[tuple[str, Any]]):
    pair.begin()
    for change, value in made:
        pair.apply(change, value)
        assert pair.alike(), (change, value)


def test_exact_on_a_nested_store_is_mlx_lm_s_bit_for_bit(native: Any, nested: Callable[..., Path]):
    import mlx_lm

    store = nested(4, 4)
    theirs = talk(mlx_lm.load(str(store.parent / "model"))[0])
    for cap in ("37.5%", "75%"):
        for options in ({}, {"prefetch": "on"}, {"light": "coarse", "light_beyond": 1.0}):
            model, _, runtime = loaded(store, "native", cap, routing="exact", **options)
            assert same(talk(model), theirs), (cap, options)
            assert runtime.stats.decode.read_backs == 0


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("part", ["scales", "high", "down", "low"])
def test_a_damaged_part_is_named_and_the_next_answer_is_right(
    native: Any, nested: Callable[..., Path], tmp_path: Path, part: str
):
    """Every expert of the second layer is damaged there: whichever part is read, the error says which."""
    shutil.copytree(nested(), tmp_path / "store")
    told = []
    for way in WAYS:
        model, _, runtime = loaded(tmp_path / "store", way, "75%", light="coarse", light_beyond=0.3)
        layout = runtime.source.layouts[1]
        where = next(one for one in layout.parts if one.name == part)
        files = [runtime.source.byte_ranges(1, expert)[0] for expert in range(layout.layer.experts)]
        places = [(one.path, one.offset + where.offset + where.nbytes // 2) for one in files]
        for path, at in places:
            flip(path, at)
        with pytest.raises(ExpertReadError) as caught:
            steps(model)
        for path, at in places:
            flip(path, at)
        assert (caught.value.layer, caught.value.path) == (2, files[caught.value.expert].path)
        assert f"part {part}: digest is" in caught.value.reason
        told.append((caught.value.expert, caught.value.reason))
        runtime.end_turn()
        runtime.reset()
        reference, _, _ = loaded(nested(), "readback", "75%", light="coarse", light_beyond=0.3)
        assert same(steps(model), steps(reference))
    assert told[0] == told[1]


@pytest.mark.slow
def test_a_file_cut_short_is_told_by_the_part_that_was_asked_for(
    native: Any, nested: Callable[..., Path], tmp_path: Path
):
    """Token by token, until both a coarse part and a rest met one; what both ways tell is the same."""
    store = Path(shutil.copytree(nested(), tmp_path / "store"))
    options: dict[str, Any] = {"routing": "exact", "light": "coarse", "light_beyond": 0.3}
    told: list[list[tuple[int, int, str]]] = []
    for way in WAYS:
        model, _, runtime = loaded(store, way, "75%", **options)
        steps(model)
        runtime.drain()
        told.append([])
        for token in range(20):
            damage_thirds(store, "truncated", runtime)
            try:
                mx.eval(model(mx.array([[5 + token]])))
            except ExpertReadError as error:
                named = [int(part.rsplit("-")[-1]) for part in (error.path.parent.name, error.path.stem)]
                assert [error.layer, error.expert] == named
                told[-1].append((error.layer, error.expert, error.reason))
            repair(store, nested())
            runtime.end_turn()
        runtime.reset()
        assert same(steps(model), steps(loaded(nested(), "readback", "75%", **options)[0]))
    assert told[0] == told[1]
    words = {reason.partition("the file has")[0] for _, _, reason in told[0]}
    assert {"coarse part: ", "rest part: "} <= words <= {"coarse part: ", "rest part: ", ""}


@pytest.fixture(scope="module")
def heavy_nested(heavy: Path) -> Path:
    from moe_mlx_convert import upgrade

    upgrade(heavy, heavy.with_name("nested"), nested=True)
    return heavy.with_name("nested")


@pytest.mark.slow
@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("light", ["coarse", "late-coarse"])
def test_a_part_that_stalls_in_the_graph_is_named(native: Any, heavy_nested: Path, light: str):
    options: dict[str, Any] = {"routing": "exact", "light": light, "light_beyond": 0.3}
    model, _, runtime = loaded(heavy_nested, "native", "75%", readers=1, **options)
    mx.eval(model(mx.array([[5]])))  # layers are handed to the graph at their first step
    layers, met, parts = runtime.layers.native.layers, set(), {"coarse part", "rest part"}
    for token in range(200):
        for one in layers:
            one._handle.stall_seconds = 1e-9
        try:
            mx.eval(model(mx.array([[6 + token % 120]])))
        except ExpertReadError as error:
            words, _, reason = error.reason.rpartition(": ")
            assert reason == "no answer from the disk in 1e-09 s"
            assert error.path == runtime.source.byte_ranges(error.layer, error.expert)[0].path
            met.add(words)
        for one in layers:
            one._handle.stall_seconds = 60.0
        runtime.end_turn()
        while any(QUARANTINED in cache.table.used for cache in runtime.layers):
            runtime.drain()
        if met >= parts:
            break
        mx.eval(model(mx.array([[6 + token * 7 % 120]])))
    assert met & parts and met <= {*parts, ""}  # which of them is waited for first is the threads' matter
    reference, _, _ = loaded(heavy_nested, "readback", "75%", **options)
    runtime.reset()
    assert same(talk(model, 1), talk(reference, 1))


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("light", ["coarse", "late-coarse"])
def test_they_cross_by_the_same_two_arrays_a_layer(native: Any, nested: Callable[..., Path], light: str):
    """Which slots are low rides in their numbers; on a stream of their own, fetches give the same answer."""
    model, _, runtime = loaded(nested(), "native", "75%", routing="exact", light=light, light_beyond=0.0)
    other, _, _ = loaded(nested(), "readback", "75%", routing="exact", light=light, light_beyond=0.0)
    runtime.layers.native.streams.apart = True
    logits = model(mx.array([[7]]))
    assert runtime.layers.native.crossings([logits]) == (len(runtime.layers), len(runtime.layers))
    mx.eval(logits)
    runtime.reset()
    assert same(steps(model), steps(other))
    assert runtime.stats.decode.coarse > 0
