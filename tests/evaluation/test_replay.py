"""A replay has to count exactly what the runtime counted, for every policy, eviction and router kind."""

from dataclasses import replace

import numpy as np
import pytest

from moe_mlx.errors import UsageError
from moe_mlx.evaluation.replay import replay
from moe_mlx.evaluation.setting import Setting
from moe_mlx.evaluation.trace import load_trace

#: softmax; groups, sigmoid and bias; experts that are none; top-k before softmax
FAMILIES = ["qwen3_moe", "deepseek_v3", "longcat_flash", "gpt_oss"]
SETTINGS = [
    Setting("50%", "exact"),
    Setting("50%", "exact", evict="lfu"),
    Setting("50%", "exact", evict="router"),
    Setting("50%", "cache-prior", 0.3),
    Setting("30%", "cache-prior", 0.3, 1, "router"),
    Setting("30%", "cache-prior", 1.0, 1, "lfu"),
    Setting("50%", "max-rank", 6),
    Setting("50%", "cumulative", 0.6),
    Setting("50%", "pruned", 2),
    Setting("100%", "cache-prior", 0.3),
]


@pytest.mark.rows_by_day(4)
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.key)
def test_replay_counts_what_the_runtime_counted(traced, setting):
    agrees(*traced(setting), setting)


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("family", FAMILIES[1:])
def test_of_every_router_kind(traced, family):
    setting = Setting("50%", "cache-prior", 0.3, 1)
    agrees(*traced(setting, family), setting)


def agrees(trace, row, setting):
    found = replay(trace, setting, trace.slots)
    counted = {name: getattr(found, name) for name in trace.counted}
    assert counted == trace.counted
    assert found.misses > 0 or setting.cache == "100%"
    assert found.miss_rate == pytest.approx(row.miss_rate)
    assert found.lifetime == pytest.approx(row.lifetime)
    assert found.bytes_per_token == pytest.approx(row.bytes_per_token)
    assert found.swapped_share == pytest.approx(row.swapped)


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_exact_trace_tells_every_cap_and_eviction(evaluate, tmp_path, family):
    path = tmp_path / "exact.npz"
    settings = [Setting("30%"), Setting("50%"), Setting("75%", evict="lfu"), Setting("50%", "belady")]
    report = evaluate(settings, family=family, trace=path)  # several settings: the trace is of the reference run
    trace = load_trace(path)
    assert trace.slots == tuple(layer.experts for layer in trace.layers)
    for setting in settings:
        row = report.rows[setting.key]
        share = float(setting.cache[:-1]) / 100
        slots = [max(layer.top_k, int(share * layer.experts)) for layer in trace.layers]
        found = replay(trace, setting, slots)
        assert sum(slots) == row.slots
        assert found.miss_rate == pytest.approx(row.miss_rate)
        assert found.lifetime == pytest.approx(row.lifetime)
        assert row.ppl_change == row.kl == 0.0
        assert row.agreement == 1.0


def test_the_heaviest_is_touched_first(traced):
    trace, _ = traced(Setting("50%", "cache-prior", 0.3))
    for layer in trace.layers:
        weights = np.take_along_axis(layer.weigh, layer.touched.astype(np.intp), axis=1)
        assert (np.diff(weights, axis=1) <= 0).all()


def test_groups_and_weights_are_traced_where_they_differ(traced):
    trace, _ = traced(Setting("50%", "cache-prior", 0.3), "deepseek_v3")
    layer = trace.layers[0]
    assert np.isinf(layer.scores).any()
    assert np.isfinite(layer.raw).all()
    assert layer.weigh is not layer.scores


def test_slots_below_top_k_are_refused(traced):
    trace, _ = traced(Setting("50%"))
    with pytest.raises(UsageError, match=r"2 slots a layer: give 3 \(top-k\) to 16"):
        replay(trace, Setting("50%"), [2] * len(trace.layers))


def test_belady_is_a_floor_under_every_eviction(traced):
    trace, _ = traced(Setting("50%"))
    for slots in range(3, 16, 3):
        each = [slots] * len(trace.layers)
        best = replay(trace, Setting("50%", "belady"), each).misses
        assert best <= min(replay(trace, Setting("50%", evict=e), each).misses for e in ("lru", "lfu"))


def test_a_trace_reads_back_as_it_was_written(traced, tmp_path):
    trace, _ = traced(Setting("50%", "cache-prior", 0.3), "deepseek_v3")
    trace.save(tmp_path / "again.npz")
    again = load_trace(tmp_path / "again.npz")
    assert replace(again, layers=()) == replace(trace, layers=())
    for a, b in zip(again.layers, trace.layers, strict=True):
        for name in ("scores", "raw", "weigh", "exact", "touched"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
