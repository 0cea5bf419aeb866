"""The expert cache is a cap: banks never hold more than was asked for, not even while the cap changes."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import moe_mlx
from moe_mlx.errors import DoesNotFitError, ExpertReadError
from moe_mlx.expert_cache.slots import SlotBank
from moe_mlx.loading.runtime import Runtime
from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    folder = tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("cap"), quantization=AFFINE4)
    model, _ = moe_mlx.load(folder, expert_cache="50%", routing="exact", decode="readback", say=lambda line: None)
    return moe_mlx.runtime_of(model)


@pytest.mark.parametrize("caps", [("100%", "18.75%", "100%"), ("25%", "75%", "50%")])
def test_no_more_than_the_larger_cap_is_ever_allocated(
    caps: tuple[str, ...], runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = SlotBank.__init__, [0]

    def allocate(self: SlotBank, *args: Any) -> None:
        original(self, *args)
        seen.append(self.nbytes + sum(cache.bank.nbytes for cache in runtime.layers if cache.bank is not self))

    monkeypatch.setattr(SlotBank, "__init__", allocate)
    for cap in caps:
        before, planned = runtime.expert_cache_bytes, runtime.plan_for(cap).expert_cache
        seen.clear()
        runtime.resize(cap)
        assert runtime.expert_cache_bytes == planned
        assert seen
        assert max(seen) <= max(before, planned)


@pytest.mark.parametrize("nbytes", [10**5, 3 * 10**5, 10**6])
def test_a_cap_in_bytes_is_kept_to_the_byte(nbytes: int, runtime: Runtime) -> None:
    runtime.resize(nbytes)
    assert runtime.expert_cache_bytes <= nbytes
    assert runtime.expert_cache_bytes == sum(array.nbytes for cache in runtime.layers for array in cache.bank.arrays)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    tiny_checkpoint("qwen3_moe", tmp_path / "checkpoint", quantization=AFFINE4)
    convert(tmp_path / "checkpoint", tmp_path / "store")
    return tmp_path / "store"


def run(model: Any) -> list[mx.array]:
    outputs = [model(mx.array([list(range(5, 40))])), *(model(mx.array([[token]])) for token in range(12))]
    mx.eval(outputs)
    return outputs


@pytest.mark.parametrize("decode", ["readback", "auto"])
def test_a_whole_layer_with_a_hole_is_not_served_as_whole(store: Path, decode: str) -> None:
    path = store / "experts" / "layer-001" / "expert-005.safetensors"
    whole = path.read_bytes()
    model, _ = moe_mlx.load(store, expert_cache="25%", routing="exact", decode=decode, say=lambda line: None)
    runtime = moe_mlx.runtime_of(model)
    expected = run(model)
    path.write_bytes(whole[:-1])
    runtime.resize("100%")
    assert [cache.full for cache in runtime.layers] == [False, True]
    with pytest.raises(ExpertReadError, match="layer 1, expert 5: the file has"):
        run(model)
    path.write_bytes(whole)
    assert all(mx.array_equal(a, b) for a, b in zip(run(model), expected, strict=True))
    runtime.resize("100%")  # asked for again it is whole
    assert all(cache.full for cache in runtime.layers)
    assert all(mx.array_equal(a, b) for a, b in zip(run(model), expected, strict=True))


@pytest.mark.rows_by_day(6)
@pytest.mark.parametrize("decode", ["readback", "auto"])
@pytest.mark.parametrize("cap", ["100%", "75%", "18.75%"])
@pytest.mark.parametrize("fault", [RuntimeError("[malloc] Unable to allocate"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [1, 2])
def test_a_resize_that_is_broken_off_leaves_a_model_that_works(
    store: Path, decode: str, cap: str, fault: BaseException, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = moe_mlx.load(store, expert_cache="50%", routing="exact", decode=decode, say=lambda line: None)
    runtime = moe_mlx.runtime_of(model)
    expected, original, calls = run(model), SlotBank.__init__, []

    def allocate(self: SlotBank, *args: Any) -> None:
        calls.append(1)
        if len(calls) == at:
            raise fault
        original(self, *args)

    monkeypatch.setattr(SlotBank, "__init__", allocate)
    with pytest.raises(DoesNotFitError if isinstance(fault, RuntimeError) else KeyboardInterrupt):
        runtime.resize(cap)
    assert all(mx.array_equal(a, b) for a, b in zip(run(model), expected, strict=True))
    assert runtime.expert_cache_bytes == runtime.plan.expert_cache
    assert list(runtime.plan.slots) == [cache.bank.slots for cache in runtime.layers]
    for cache in runtime.layers:
        cache.table.check()


@pytest.mark.parametrize("decode", ["readback", "auto"])
def test_a_model_that_was_dropped_leaves_memory_and_files(tmp_path: Path, decode: str) -> None:
    folder = tiny_checkpoint("qwen3_moe", tmp_path / "checkpoint", quantization=AFFINE4)
    model, _ = moe_mlx.load(folder, expert_cache="50%", routing="exact", decode=decode, say=lambda line: None)
    for tokens in ([[7, 8, 9]], [[7]]):
        mx.eval(model(mx.array(tokens)))
    left = [weakref.ref(model), weakref.ref(moe_mlx.runtime_of(model)), weakref.ref(moe_mlx.runtime_of(model).source)]
    del model
    for _ in range(2):  # its source goes once the model has
        gc.collect()
    assert [alive() for alive in left] == [None, None, None]
