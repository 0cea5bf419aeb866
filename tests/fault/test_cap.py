"""The expert cache is a cap: banks never hold more than was asked for, not even while the cap changes."""

from __future__ import annotations

from typing import Any

import pytest

import moe_mlx
from moe_mlx.runtime import Runtime
from moe_mlx.slots import SlotBank
from tests.families.tiny import AFFINE4, tiny_checkpoint


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
