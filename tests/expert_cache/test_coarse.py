"""Coarse experts by read-back: mlx-lm's model restated, what lies in every slot, prompts, caps, damaged parts."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx.conversation.audit import Auditor
from moe_mlx.errors import ExpertReadError
from moe_mlx.expert_cache.residency import QUARANTINED
from moe_mlx.loading.pressure import PressureWatch
from moe_mlx.store import codes
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.expert_cache.coarse_oracle import CoarseOracle
from tests.expert_cache.restated import turns

QUIET: dict[str, Any] = {"decode": "readback", "say": lambda line: None}


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """Bits -> a checkpoint of five layers whose tokens take six of sixteen experts, and a nested store of it."""
    from moe_mlx_convert import convert

    made: dict[tuple[int, int], tuple[Path, Path]] = {}

    def make(bits: int = 4, row_blocks: int = 1) -> tuple[Path, Path]:
        if (bits, row_blocks) not in made:
            folder = tmp_path_factory.mktemp("nested")
            quantization = {**AFFINE4, "bits": bits}
            shape = {"num_hidden_layers": 5, "num_experts_per_tok": 6, "norm_topk_prob": True}
            tiny_checkpoint("qwen3_moe", folder / "model", quantization=quantization, **shape)
            convert(folder / "model", folder / "store", nested=True, row_blocks=row_blocks, compare=False)
            made[bits, row_blocks] = folder / "model", folder / "store"
        return made[bits, row_blocks]

    return make


@pytest.fixture
def load() -> Iterator[Callable[..., Any]]:
    """A folder, a cap and options of moe_mlx.load -> the model, coarse experts on."""
    models = []

    def made(folder: Path, cap: str = "62.5%", **options: Any) -> Any:
        options = {"routing": "exact", "light": "coarse", **QUIET, **options}
        models.append(moe_mlx.load(folder, expert_cache=cap, **options)[0])
        return models[-1]

    yield made
    for model in models:
        moe_mlx.runtime_of(model).close()


def close(left: list[mx.array], right: list[mx.array]) -> bool:
    return all(bool(mx.allclose(a, b, rtol=1e-3, atol=1e-4)) for a, b in zip(left, right, strict=True))


def same(left: list[mx.array], right: list[mx.array]) -> bool:
    return all(bool(mx.array_equal(a, b)) for a, b in zip(left, right, strict=True))


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize(
    ("cap", "beyond", "form"), [("62.5%", 0.6, "2"), ("75%", 0.3, "2"), ("87.5%", 0.0, "2"), ("75%", 0.3, "2-down4")]
)
def test_it_is_the_rule_on_mlx_lm_s_own_model(nested: Any, load: Any, cap: str, beyond: float, form: str):
    checkpoint, store = nested()
    model = load(store, cap, light_beyond=beyond, light_form=form)
    ours, totals, runtime = turns(model), moe_mlx.stats(model).decode, moe_mlx.runtime_of(model)
    reference = load_model(checkpoint)[0]
    exact = turns(reference)
    assert runtime.plan.low, "no low slots: the comparison says nothing"
    oracle = CoarseOracle(reference, runtime.plan.slots[0], runtime.plan.low[0], beyond, down=2 if form == "2" else 0)
    with oracle.at_work():
        theirs = turns(reference)
    assert close(ours, theirs)
    assert not close(ours, exact), "nobody was coarse: the comparison says nothing"
    whole, low = runtime.layers[0].spec.expert_nbytes, runtime.source.layouts[0].coarse_nbytes(form)
    assert totals.misses == sum(oracle.read.values())
    assert (totals.coarse, totals.promotions) == (oracle.coarse, oracle.read["rest"])
    assert totals.coarse_weight == pytest.approx(oracle.coarse_weight, rel=1e-5)
    assert totals.coarse_bytes == oracle.read["coarse"] * low
    assert totals.rest_bytes == oracle.read["rest"] * (whole - low)
    assert totals.whole_bytes == oracle.read["whole"] * whole
    assert min(oracle.read.values()) > 0, "a way to be read was not taken"


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize(
    ("bits", "row_blocks", "form"), [(4, 1, "2"), (4, 4, "2"), (6, 1, "2"), (8, 2, "2"), (4, 2, "2-down4")]
)
def test_every_slot_holds_bits_of_the_store(nested: Any, load: Any, bits: int, row_blocks: int, form: str):
    """Promoted, demoted and read in parts: what is whole has the store's bytes, what is low its high bits."""
    model = load(nested(bits, row_blocks)[1], "75%", light_beyond=0.3, light_form=form)
    model(mx.array([np.arange(5, 29).tolist()]))
    turns(model)
    runtime = moe_mlx.runtime_of(model)
    runtime.drain()
    assert moe_mlx.stats(model).decode.promotions > 0
    met = [0, 0]
    for cache in runtime.layers:
        cache.table.check()
        low = cache.bank.low
        assert low is not None
        for slot, expert in enumerate(cache.table.owner):
            if expert < 0:
                continue
            wanted = [bytearray(spec.nbytes) for spec in cache.spec.tensors]
            runtime.source.read_into(cache.spec.index, expert, [memoryview(one) for one in wanted])
            coarse = slot >= cache.table.slots
            met[coarse] += 1
            found = low.bank.buffers(slot - cache.table.slots) if coarse else cache.bank.buffers(slot)
            for tensor, (whole, there) in enumerate(zip(wanted, found, strict=True)):
                if coarse and (cut := low.cut.get(tensor)) is not None:
                    bytes_of = np.frombuffer(whole, np.uint8)[None]
                    sizes = [bytes_of.size * part // cut.bits for part in (cut.high_bits, cut.low_bits)]
                    high, rest = (np.zeros((1, size), np.uint8) for size in sizes)
                    codes.split(cut, bytes_of, high, rest)
                    assert there == high.tobytes()
                else:
                    assert there == whole
    assert min(met) > 0


@pytest.mark.parametrize("light", ["exact", "coarse", "late-coarse"])
def test_where_nothing_is_light_the_answer_is_mlx_lm_s_bit_for_bit(nested: Any, load: Any, light: str):
    """Promotions and demotions between whole and low slots change no bit."""
    checkpoint, store = nested()
    model, reference = load(store, light=light, light_beyond=1.0), load_model(checkpoint)[0]
    assert same(turns(model), turns(reference))
    totals = moe_mlx.stats(model).decode
    assert (totals.coarse, totals.late) == (0, 0)
    assert (totals.promotions > 0) == (light != "exact")


def test_prompts_and_batches_are_exact(nested: Any, load: Any):
    checkpoint, store = nested()
    model, reference = load(store, light_beyond=0.0), load_model(checkpoint)[0]
    turns(model)
    for rows in (np.arange(24).reshape(1, 24), np.arange(8).reshape(4, 2), np.arange(3).reshape(3, 1)):
        tokens = mx.array(rows + 5)
        assert mx.array_equal(model(tokens), reference(tokens))


def test_late_coarse_is_both(nested: Any, load: Any):
    """What is absent and light is read coarse and joins later; what is resident coarse is used at once."""
    model = load(nested()[1], light="late-coarse", light_beyond=0.3)
    turns(model)
    totals = moe_mlx.stats(model).decode
    assert 0 < totals.late < totals.coarse
    assert totals.waits_saved > 0 and totals.late <= totals.misses


def test_a_cap_holds_both_kinds(nested: Any, load: Any):
    model = load(nested()[1])
    runtime = moe_mlx.runtime_of(model)
    asked = int(0.625 * runtime.source.experts_nbytes)
    assert runtime.expert_cache_bytes == runtime.plan.expert_cache <= asked
    for cap in ("75%", "37.5%", "100%", "62.5%"):
        turns(model)
        runtime.resize(cap)
        assert runtime.expert_cache_bytes == runtime.plan.expert_cache
        assert runtime.expert_cache_bytes <= float(cap[:-1]) / 100 * runtime.source.experts_nbytes
        for cache in runtime.layers:
            cache.table.check()
            assert cache.table.slots >= cache.spec.top_k
    assert (runtime.plan.slots[0], runtime.plan.low[0]) == (6, 6)


def test_modes_change_while_a_model_lives(nested: Any, load: Any):
    checkpoint, store = nested()
    model, reference = load(store, light="exact"), load_model(checkpoint)[0]
    runtime = moe_mlx.runtime_of(model)
    assert runtime.slots_per_layer == [10] * len(runtime.layers)
    turns(model)
    runtime.set_routing(light="coarse", light_beyond=0.3)
    assert runtime.slots_per_layer == [6] * len(runtime.layers) and set(runtime.plan.low) == {6}
    coarse = turns(model)
    assert not same(coarse, turns(reference))
    runtime.set_routing(light="exact")
    assert runtime.slots_per_layer == [10] * len(runtime.layers)
    assert same(turns(model), turns(reference))
    runtime.set_routing(light="coarse")
    runtime.reset()
    assert same(turns(model), turns(load(store, light_beyond=0.3)))


@pytest.mark.parametrize("part", ["high", "low"])
def test_a_damaged_part_is_named_and_the_next_answer_is_right(nested: Any, load: Any, tmp_path: Path, part: str):
    store = tmp_path / "store"
    shutil.copytree(nested()[1], store)
    model = load(store, light_beyond=0.3)
    runtime = moe_mlx.runtime_of(model)
    layout = runtime.source.layouts[1]
    where = next(one for one in layout.parts if one.name == part)
    paths = [runtime.source.byte_ranges(1, expert)[0] for expert in range(layout.layer.experts)]
    for one in paths:
        _flip(one.path, one.offset + where.offset + where.nbytes // 2)
    with pytest.raises(ExpertReadError) as caught:
        turns(model)
    assert (caught.value.layer, caught.value.path) == (2, paths[caught.value.expert].path)
    assert f"part {part}: digest is" in caught.value.reason
    for cache in runtime.layers:
        cache.table.check()
    for one in paths:
        _flip(one.path, one.offset + where.offset + where.nbytes // 2)
    runtime.end_turn()
    runtime.reset()
    assert same(turns(model), turns(load(nested()[1], light_beyond=0.3)))


class FailingAccess:
    """A disk that fails where one kind of read begins: the coarse part of an expert, or the rest."""

    def __init__(self, access: Any, begins: int, nbytes: int, fail: Callable[[], None]) -> None:
        self._access, self._read, self._fail = access, (begins, nbytes), fail

    def __getattr__(self, name: str) -> Any:
        return getattr(self._access, name)

    def fill(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        if (offset, sum(buffer.nbytes for buffer in buffers)) == self._read:
            self._fail()
        found: int = self._access.fill(fd, buffers, offset)
        return found


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize("light", ["coarse", "late-coarse"])
@pytest.mark.parametrize("part", ["coarse", "rest"])
@pytest.mark.parametrize("fault", ["EIO", "slow"])
def test_a_disk_that_fails_in_one_part_is_told_by_it(
    nested: Any, load: Any, monkeypatch: pytest.MonkeyPatch, fault: str, part: str, light: str
):
    model = load(nested()[1], light=light, light_beyond=0.3)
    runtime, release = moe_mlx.runtime_of(model), threading.Event()
    source, pool = runtime.source, runtime.layers.pool
    whole, prefix = source.layers[0].expert_nbytes, source.layouts[0].coarse_nbytes()
    at = source.byte_ranges(0, 0)[0].offset

    def fail() -> None:
        if fault == "EIO":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        release.wait(30)

    read = (at, prefix) if part == "coarse" else (at + prefix, whole - prefix)
    with monkeypatch.context() as broken:
        broken.setattr(source, "access", FailingAccess(source.access, *read, fail))
        broken.setattr(pool, "stall_seconds", 0.05 if fault == "slow" else 60.0)
        with pytest.raises(ExpertReadError) as caught:
            turns(model)
        release.set()
        pool.wait_idle()
    told = os.strerror(errno.EIO) if fault == "EIO" else "no answer from the disk in 0.05 s"
    assert caught.value.reason == f"{part} part: {told}"
    place = [layer.layer for layer in source.layers].index(caught.value.layer)
    assert caught.value.path == source.byte_ranges(place, caught.value.expert)[0].path
    for cache in runtime.layers:
        cache.table.check()
        assert QUARANTINED not in cache.table.used, "a slot is given back when its read has ended"
    runtime.end_turn()
    runtime.reset()
    assert same(turns(model), turns(load(nested()[1], light=light, light_beyond=0.3)))


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_memory_pressure_shrinks_both_kinds_and_gives_them_back(nested: Any, load: Any):
    model = load(nested()[1], "75%")
    runtime = moe_mlx.runtime_of(model)
    before = runtime.slots_per_layer, runtime.low_slots_per_layer, runtime.expert_cache_bytes
    said, now = [], iter(range(0, 10_000, 30))
    pressed: list[bool | None] = [True, True, *[False] * 20]
    watch = PressureWatch(runtime, said.append, lambda: pressed.pop(0), lambda: float(next(now)), lambda: False)
    for _ in range(2):
        turns(model)
        watch.between_tokens()
        for cache in runtime.layers:
            cache.table.check()
            assert cache.table.slots >= cache.spec.top_k
    assert runtime.expert_cache_bytes < before[2] and "memory pressure" in said[0]
    for _ in range(20):
        watch.between_tokens()
    assert (runtime.slots_per_layer, runtime.low_slots_per_layer, runtime.expert_cache_bytes) == before
    changes = len(said)
    pressed.append(False)
    watch.between_tokens()
    assert len(said) == changes, "what was asked for is there again"


def test_warm_up_fills_both_kinds(nested: Any, load: Any, tmp_path: Path):
    store = nested()[1]
    first = load(store, history=str(tmp_path))
    turns(first)
    moe_mlx.runtime_of(first).close()
    model = load(store, history=str(tmp_path), warm="on")
    runtime = moe_mlx.runtime_of(model)
    assert runtime.warmed_bytes == runtime.expert_cache_bytes, "every slot of either kind is filled once"
    for cache in runtime.layers:
        cache.table.check()
        assert -1 not in cache.table.owner
    assert same(turns(model), turns(load(store, history=str(tmp_path), warm="on")))


def test_an_audit_reads_what_is_not_whole(nested: Any, load: Any):
    """An answer that is audited is the answer it would have been."""
    store = nested()[1]
    model, plain = load(store, light_beyond=0.0), load(store, light_beyond=0.0)
    audit = Auditor(model, 1)
    cache, own = make_prompt_cache(model), make_prompt_cache(plain)
    with audit:
        for token in range(5, 25):
            audited = model(mx.array([[token]]), cache=cache)
            assert mx.array_equal(audited, plain(mx.array([[token]]), cache=own))
    found = audit.summary()
    audit.close()
    assert found.tokens == 20 and found.kl > 0 and found.bytes_read > 0
    for left, right in zip(moe_mlx.runtime_of(model).layers, moe_mlx.runtime_of(plain).layers, strict=True):
        assert left.table.slot_of == right.table.slot_of and left.table.used == right.table.used
