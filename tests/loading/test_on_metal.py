"""Plans and limits of a model that is loaded on a Mac; Metal is faked, the model is real."""

import gc
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import moe_mlx
from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.errors import UsageError
from moe_mlx.loading import limits, wiring
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.metal_fakes import FakeMetal

GB = 10**9


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("model"), quantization=AFFINE4)


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch) -> FakeMetal:
    monkeypatch.setattr(limits, "_held", [])  # whatever tests before left open
    monkeypatch.setattr(limits, "_restore", [])
    monkeypatch.setattr(wiring, "_setters", {})
    for name in ("mlx_lm.utils", "mlx_lm.generate"):
        module = import_module(name)
        monkeypatch.setattr(module, wiring._SETTER, getattr(module, wiring._SETTER))
    return FakeMetal(16 * GB, 11 * GB).install(monkeypatch)


def loaded(checkpoint: Path, **options: Any) -> Any:
    return moe_mlx.load(checkpoint, decode="readback", say=lambda line: None, **options)


def test_resizing_plans_within_the_working_set(checkpoint: Path, metal: FakeMetal):
    model, _ = loaded(checkpoint, expert_cache="50%")
    runtime = moe_mlx.runtime_of(model)
    assert runtime.plan.available == 11 * GB
    for cap in ("auto", "75%"):
        assert runtime.plan_for(cap).available == 11 * GB  # what is held already is part of it
    runtime.close()


def test_auto_leaves_macos_its_room_though_the_limit_was_raised(checkpoint: Path, metal: FakeMetal):
    model, _ = loaded(checkpoint, expert_cache="100%")
    plan = moe_mlx.runtime_of(model).plan
    moe_mlx.runtime_of(model).close()
    # A raised limit: all of the memory may be wired. Without macOS's 4 GB half of the experts fit, beside MLX's 5%.
    least = plan.resident_weights + plan.kv_cache + plan.expert_cache // 2 + 4 * GB
    metal.working_set = metal.memory = int(least / 0.95)
    model, _ = loaded(checkpoint, expert_cache="auto")
    runtime = moe_mlx.runtime_of(model)
    assert runtime.plan.total <= metal.memory - 4 * GB
    assert 0 < runtime.plan.expert_cache < runtime.source.experts_nbytes
    assert runtime.plan_for("auto").slots == runtime.plan.slots
    assert runtime.plan_for("100%").expert_cache == runtime.source.experts_nbytes  # who asks gets it
    runtime.close()


def test_what_the_plan_holds_is_wired_and_mlx_lm_does_not_change_it(checkpoint: Path, metal: FakeMetal):
    active = mx.get_active_memory()
    model, tokenizer = loaded(checkpoint, expert_cache="50%")
    runtime = moe_mlx.runtime_of(model)
    least = active + runtime.plan.total
    assert least < metal.wired < 11 * GB
    talk = Session(model, tokenizer, Sampling(max_tokens=3))
    for _ in talk.answer(talk.encode([{"role": "user", "content": "hello"}])):
        pass
    assert metal.set == [metal.wired]
    runtime.close()


@pytest.mark.parametrize(("asked", "limit"), [("off", 0), ("max", 11 * GB), ("2GB", 2 * GB), ("99GB", 11 * GB)])
def test_the_limit_that_was_asked_for(checkpoint: Path, metal: FakeMetal, asked: str, limit: int):
    model, _ = loaded(checkpoint, expert_cache="50%", wired=asked)
    assert metal.wired == limit
    moe_mlx.runtime_of(model).close()


def test_no_such_limit(checkpoint: Path):
    with pytest.raises(UsageError, match="wired is 'much'"):
        loaded(checkpoint, wired="much")


def test_without_metal_nothing_is_wired(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: pytest.fail("there is no such limit here"))
    assert wiring.wired_bytes(GB, "auto") is wiring.wired_bytes(GB, "max") is None
    moe_mlx.runtime_of(loaded(checkpoint, expert_cache="50%")[0]).close()


def cache_limit() -> int:
    """MLX's own, left as it is."""
    limit = mx.set_cache_limit(0)
    mx.set_cache_limit(limit)
    return limit


def test_limits_go_back_with_the_last_model_that_holds_them(checkpoint: Path, metal: FakeMetal):
    generate = import_module("mlx_lm.generate")
    metal.wired, setter, before = 5, getattr(generate, wiring._SETTER), cache_limit()
    first, second = (loaded(checkpoint, expert_cache="50%", wired=wired)[0] for wired in ("2GB", "3GB"))
    assert (metal.wired, cache_limit()) == (3 * GB, moe_mlx.runtime_of(second).plan.mlx_cache)
    assert getattr(generate, wiring._SETTER) is not setter
    moe_mlx.runtime_of(second).close()
    assert (metal.wired, cache_limit()) == (2 * GB, moe_mlx.runtime_of(first).plan.mlx_cache)
    third = loaded(checkpoint, expert_cache="50%", wired="4GB")[0]
    moe_mlx.runtime_of(first).close()
    assert metal.wired == 4 * GB, "the latest load's stay while it holds them"
    del third  # without `close`
    gc.collect()
    assert (metal.wired, cache_limit()) == (5, before)
    assert getattr(generate, wiring._SETTER) is setter


def test_a_load_that_fails_leaves_the_limits_as_they_were(
    checkpoint: Path, metal: FakeMetal, monkeypatch: pytest.MonkeyPatch
):
    metal.wired, before = 5, cache_limit()
    monkeypatch.setattr("moe_mlx.loading.loader.load_tokenizer", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loaded(checkpoint, expert_cache="50%")
    assert len(metal.set) == 2
    assert (metal.wired, cache_limit()) == (5, before)
