"""Late experts by read-back: mlx-lm's model restated, every family's block put together again, errors, interrupts."""

from __future__ import annotations

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
from moe_mlx.errors import ExpertReadError
from moe_mlx.expert_cache.reading import STALL_SECONDS
from moe_mlx.expert_cache.residency import QUARANTINED
from moe_mlx.loading.pressure import PressureWatch
from moe_mlx.routing.light import LightRule
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.damage import flip
from tests.expert_cache.late_oracle import LateOracle, first_late
from tests.expert_cache.restated import turns


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("late") / "model"
    return tiny_checkpoint("qwen3_moe", folder, quantization=AFFINE4, num_hidden_layers=5, num_experts_per_tok=6)


@pytest.fixture
def late() -> Iterator[Callable[..., Any]]:
    """A folder and options of moe_mlx.load -> the model, late experts on."""
    models = []

    def load(folder: Path, cap: str = "50%", **options: Any) -> Any:
        options = {"routing": "exact", "light": "late", "decode": "readback", "say": lambda line: None, **options}
        models.append(moe_mlx.load(folder, expert_cache=cap, **options)[0])
        return models[-1]

    yield load
    for model in models:
        moe_mlx.runtime_of(model).close()


def close(left: list[mx.array], right: list[mx.array]) -> bool:
    return all(bool(mx.allclose(a, b, rtol=1e-4, atol=1e-5)) for a, b in zip(left, right, strict=True))


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize(
    ("cap", "beyond", "distance"),
    [("50%", 0.6, 1), ("50%", 0.3, 1), ("75%", 0.0, 1), ("37.5%", 0.45, 2)],
)
def test_it_is_the_rule_on_mlx_lm_s_own_model(checkpoint: Path, late: Any, cap: str, beyond: float, distance: int):
    model = late(checkpoint, cap, light_beyond=beyond, light_distance=distance)
    ours, totals = turns(model), moe_mlx.stats(model).decode
    reference = load_model(checkpoint)[0]
    exact = turns(reference)
    oracle = LateOracle(reference, moe_mlx.runtime_of(model).slots_per_layer[0], beyond, distance)
    with oracle.at_work():
        theirs = turns(reference)
    assert close(ours, theirs)
    assert not close(ours, exact), "nobody was late: the comparison says nothing"
    counted = (totals.misses, totals.late, totals.read_waits, totals.waits_saved)
    assert counted == (oracle.misses, oracle.late, oracle.waits, oracle.saved)
    assert totals.late_weight == pytest.approx(oracle.late_weight, rel=1e-5)
    assert totals.bytes_read == totals.misses * moe_mlx.runtime_of(model).layers[0].spec.expert_nbytes


def test_what_was_refused_can_be_measured(checkpoint: Path, late: Any):
    """Light absent experts left out: known to an evaluation, not to the settings."""
    model = late(checkpoint, "50%", light="exact")
    moe_mlx.runtime_of(model).light_by(LightRule("dropped", 0.5))
    reference = load_model(checkpoint)[0]
    oracle = LateOracle(reference, 8, 0.5, dropped=True)
    with oracle.at_work():
        theirs = turns(reference)
    assert close(turns(model), theirs)
    assert moe_mlx.stats(model).decode.late == oracle.late > 0


@pytest.mark.parametrize("cap", ["50%", "100%"])
def test_where_nothing_can_be_late_the_answer_is_exact(checkpoint: Path, late: Any, cap: str):
    beyond = 1.0 if cap == "50%" else 0.6
    model = late(checkpoint, cap, light_beyond=beyond)
    assert close(turns(model), turns(load_model(checkpoint)[0]))
    assert moe_mlx.stats(model).decode.late == 0


def test_prompts_and_batches_are_exact(checkpoint: Path, late: Any):
    model, reference = late(checkpoint), load_model(checkpoint)[0]
    for rows in (np.arange(24).reshape(1, 24), np.arange(8).reshape(4, 2), np.arange(3).reshape(3, 1)):
        tokens = mx.array(rows + 5)
        assert mx.array_equal(model(tokens), reference(tokens))
    assert moe_mlx.stats(model).decode.late == 0


def test_the_next_call_knows_nothing_of_one_that_was_broken_off(checkpoint: Path, late: Any, monkeypatch: Any):
    """An interrupt between the layer that owes and the one that adds."""
    models = [late(checkpoint) for _ in range(2)]
    cache = make_prompt_cache(models[0])
    layer = models[0].model.layers[2]
    monkeypatch.setattr(layer, "self_attn", _Interrupted(), raising=True)
    with pytest.raises(KeyboardInterrupt):
        models[0](mx.array([[7]]), cache=cache)
    monkeypatch.undo()
    for model in models:
        moe_mlx.reset(model)
    for cache in moe_mlx.runtime_of(models[0]).layers:
        cache.table.check()
    left, right = (turns(model) for model in models)
    assert all(bool(mx.array_equal(a, b)) for a, b in zip(left, right, strict=True))


class _Interrupted:
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt


def test_an_error_names_the_layer_that_was_late(tmp_path: Path, checkpoint: Path, late: Any):
    """Every expert of the second layer is damaged; a late read of it is waited for in the third."""
    from moe_mlx_convert import convert

    convert(checkpoint, tmp_path / "store")
    model = late(tmp_path / "store", light_beyond=0.0)
    cache = make_prompt_cache(model)
    tokens = iter(range(5, 90))

    def step() -> mx.array:
        logits = model(mx.array([[next(tokens)]]), cache=cache)
        mx.eval(logits)
        return logits

    for _ in range(6):
        step()
    layer = moe_mlx.runtime_of(model).layers[1]
    here = set(layer.table.resident)
    damaged = sorted((tmp_path / "store" / "experts").glob("layer-001/*"))
    for number, path in enumerate(damaged):
        if number not in here:
            flip(path)
    before = moe_mlx.stats(model).decode.late
    with pytest.raises(ExpertReadError, match="layer 1, expert") as caught:
        for _ in range(40):
            step()
    assert caught.value.layer == 1 and f"expert-{caught.value.expert:03}" in str(caught.value.path)
    assert moe_mlx.stats(model).decode.late >= before
    layer.table.check()
    for number, path in enumerate(damaged):
        if number not in here:
            flip(path)
    moe_mlx.reset(model)
    moe_mlx.runtime_of(model).set_routing(light="exact")
    assert close(turns(model), turns(load_model(checkpoint)[0]))


class Held:
    """Reads of one expert that hang until they are let go."""

    def __init__(self, runtime: Any, index: int, expert: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release, self.begun, read = threading.Event(), threading.Event(), runtime.source.read_into

        def held(layer: int, which: int, buffers: Any) -> int:
            if (layer, which) == (index, expert):
                self.begun.set()
                assert self.release.wait(30)
            return int(read(layer, which, buffers))

        monkeypatch.setattr(runtime.source, "read_into", held)


def test_a_late_read_that_stalls_is_told_by_its_own_name(checkpoint: Path, late: Any, monkeypatch: Any):
    """The third layer waits for the second's past the limit; the slot comes back with the read."""
    expert, tokens = first_late(late(checkpoint, light_beyond=0.0), 1)
    model, reference = (late(checkpoint, light_beyond=0.0) for _ in range(2))
    runtime, cache = moe_mlx.runtime_of(model), make_prompt_cache(model)
    for token in tokens[:-1]:
        mx.eval(model(mx.array([[token]]), cache=cache))
    monkeypatch.setattr(runtime.layers.pool, "stall_seconds", 0.5)
    held = Held(runtime, 1, expert, monkeypatch)
    with pytest.raises(ExpertReadError, match=r"no answer from the disk in 0\.5 s") as caught:
        mx.eval(model(mx.array([[tokens[-1]]]), cache=cache))
    spec, where = runtime.layers[1].spec, runtime.source.byte_ranges(1, expert)[0].path
    assert (caught.value.layer, caught.value.expert, caught.value.path) == (spec.layer, expert, where)
    table = runtime.layers[1].table
    assert table.slot_of[expert] < 0 and list(table.used).count(QUARANTINED) == 1
    held.release.set()
    runtime.layers.pool.wait_idle()
    monkeypatch.setattr(runtime.layers.pool, "stall_seconds", STALL_SECONDS)
    runtime.reset()
    table.check()
    assert QUARANTINED not in table.used
    assert all(mx.array_equal(a, b) for a, b in zip(turns(model), turns(reference), strict=True))


def test_pressure_shrinks_the_cache_while_a_late_read_is_under_way(checkpoint: Path, late: Any, monkeypatch: Any):
    """A call is broken off between the layer that owes and the one that waits; its read still hangs at the resize."""
    expert, tokens = first_late(late(checkpoint, "75%", light_beyond=0.0), 1)
    model, reference = (late(checkpoint, "75%", light_beyond=0.0) for _ in range(2))
    runtime, cache = moe_mlx.runtime_of(model), make_prompt_cache(model)
    for token in tokens[:-1]:
        mx.eval(model(mx.array([[token]]), cache=cache))
    monkeypatch.setattr(runtime.layers.pool, "stall_seconds", 0.5)
    held = Held(runtime, 1, expert, monkeypatch)
    with monkeypatch.context() as broken:
        broken.setattr(model.model.layers[runtime.layers[2].spec.layer], "self_attn", _Interrupted())
        with pytest.raises(KeyboardInterrupt):
            model(mx.array([[tokens[-1]]]), cache=cache)
    assert held.begun.wait(30), "no late read was under way"
    said: list[str] = []
    before = runtime.slots_per_layer
    PressureWatch(runtime, said.append, lambda: True, lambda: 1000.0).between_tokens()
    assert runtime.slots_per_layer < before and "memory pressure" in said[0]
    held.release.set()
    runtime.layers.pool.wait_idle()
    monkeypatch.setattr(runtime.layers.pool, "stall_seconds", STALL_SECONDS)
    moe_mlx.runtime_of(reference).resize(runtime.expert_cache_bytes)
    for each in (runtime, moe_mlx.runtime_of(reference)):
        each.reset()
        for layer in each.layers:
            layer.table.check()
    assert runtime.slots_per_layer == moe_mlx.runtime_of(reference).slots_per_layer
    assert all(mx.array_equal(a, b) for a, b in zip(turns(model), turns(reference), strict=True))


def test_live_changes(checkpoint: Path, late: Any):
    model, reference = late(checkpoint, light="exact"), load_model(checkpoint)[0]
    runtime = moe_mlx.runtime_of(model)
    exact = turns(reference)
    assert close(turns(model), exact)
    runtime.set_routing(light="late", light_beyond=0.3)
    assert runtime.layers.lossy and not close(turns(model), exact)
    assert runtime.stats.decode.late > 0
    runtime.resize("100%")
    assert close(turns(model), exact)
    runtime.resize("50%")
    runtime.set_routing(light="exact")
    assert not runtime.layers.lossy and close(turns(model), exact)
