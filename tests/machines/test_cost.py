"""The cost model against sums made by hand, and against the design's own table for two published shapes."""

from dataclasses import replace

import pytest

from moe_mlx.catalogue.known import known_named
from moe_mlx.cli import main
from moe_mlx.machines.cost import LINKS, Link, Machines, one, outlooks, pick, pipeline, rows
from moe_mlx.planning.chips import chip_named
from moe_mlx.planning.forecast import usable_memory
from moe_mlx.planning.prediction import LAYER_SECONDS, Rates
from moe_mlx.planning.shape import ModelShape

#: What the design reckoned with: memory bandwidth x 0.65, an SSD of 5 GB/s x 0.85, a fence of 180 us a layer.
KV = {"Qwen3-235B-A22B": 1.58e9, "Kimi-K2": 0.58e9}
BANDWIDTH = {16: 120e9, 64: 273e9}


def shape_of(name: str) -> ModelShape:
    found = known_named(name)
    assert found is not None
    return found.shape


def machines(name: str, count: int, gigabytes: int, link: str) -> Machines:
    rates = Rates("m", BANDWIDTH[gigabytes] * 0.65, 5e9 * 0.85, 180e-6, "")
    return Machines((usable_memory(gigabytes * 10**9),) * count, LINKS[link], rates, True, int(KV[name]))


@pytest.mark.parametrize(
    ("name", "count", "gigabytes", "link", "alone", "by_rows", "by_layers"),
    [
        ("Qwen3-235B-A22B", 4, 16, "thunderbolt", None, 2.1, 1.5),
        ("Qwen3-235B-A22B", 2, 64, "10G", 1.9, 4.0, 3.2),
        ("Qwen3-235B-A22B", 4, 64, "jaccl", 1.9, 12.4, 13.9),
        ("Kimi-K2", 4, 64, "jaccl", 0.7, 3.8, 1.3),
    ],
)
def test_the_design_s_table(
    name: str, count: int, gigabytes: int, link: str, alone: float | None, by_rows: float, by_layers: float
):
    """Within 6%: a rank of a pipeline keeps all embeddings, a token reads one row of them, a control sum goes round."""
    shape, planned = shape_of(name), machines(name, count, gigabytes, link)
    assert rows(shape, planned).tps == pytest.approx(by_rows, rel=0.06)
    assert pipeline(shape, planned).tps == pytest.approx(by_layers, rel=0.06)
    if alone is None:
        assert one(shape, planned).why_not and one(shape, planned).tps == 0
    else:
        assert one(shape, planned).tps == pytest.approx(alone, rel=0.06)


def test_sums_by_hand():
    shape, planned = shape_of("Qwen3-235B-A22B"), machines("Qwen3-235B-A22B", 2, 64, "10G")
    found = pipeline(shape, planned)
    available = 48e9
    layer = shape.layers[0]
    chosen = 94 * 8 * layer.expert_nbytes
    assert found.layers == (47, 47)
    resident = 2 * shape.looked_up_nbytes + (shape.resident_nbytes - 2 * shape.looked_up_nbytes) / 2
    cache = available * 0.92 - resident - 1.58e9 / 2 - 1e9
    assert found.caches == pytest.approx((cache, cache), rel=1e-6)
    held = cache / (47 * layer.nbytes)
    assert found.share == pytest.approx(held)
    missed = 0.55 * (0.30 + (0.13 - 0.30) * (held - 0.5) / 0.25)
    assert found.misses == pytest.approx(missed * 94 * 8)
    assert found.read_nbytes == pytest.approx(missed * chosen)
    assert found.reads == pytest.approx(missed * chosen / (5e9 * 0.85))
    assert found.weights == pytest.approx((shape.resident_nbytes - shape.looked_up_nbytes + chosen) / (273e9 * 0.65))
    assert found.link == pytest.approx(100e-6 + 8192 / 1.17e9 + 100e-6 + 4096 / 1.17e9 + 100e-6 + 4 * 180e-6)
    assert found.fences == pytest.approx(94 * 180e-6)
    assert found.tps == pytest.approx(1 / (found.weights + found.reads + found.link + found.fences))
    assert found.disks == pytest.approx((47 * layer.nbytes + shape.resident_nbytes,) * 2)


def test_a_plan_says_how_to_start_what_it_picks(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "Qwen3-235B-A22B", "--machines", "64GB,64GB", "--link", "jaccl"]) == 0
    told = capsys.readouterr().out
    assert "take tensor" in told and "--parallel tensor --split 8,8 ..." in told
    assert "convert --row-blocks 16 --machines 64GB,64GB --parallel tensor" in told


@pytest.mark.parametrize("decode", ("native", "readback"))
def test_rows_and_layers_wait_as_the_way_that_decodes_does(decode: str):
    shape, planned = shape_of("Qwen3-235B-A22B"), machines("Qwen3-235B-A22B", 2, 64, "10G")
    planned = replace(planned, rates=Rates.of_chip(chip_named("M4 Pro"), decode))
    for way in (rows, pipeline):
        assert way(shape, planned).fences == pytest.approx(94 * LAYER_SECONDS[decode])


def test_links():
    ring, mesh = Link(1e-4, 1e9), Link(1e-4, 1e9, mesh=True)
    assert ring.gather(4, 4000) == pytest.approx(3 * (1e-4 + 1e-6))
    assert mesh.gather(4, 4000) == pytest.approx(1e-4 + 3e-6)


def test_more_memory_never_costs_a_token_more_misses_and_uneven_machines_get_uneven_layers():
    shape, planned = shape_of("Qwen3-235B-A22B"), machines("Qwen3-235B-A22B", 2, 64, "10G")
    larger = replace(planned, available=(planned.available[0] * 2, planned.available[1]))
    for way in (pipeline, rows):
        assert way(shape, larger).misses < way(shape, planned).misses
    experts, beside = shape.experts_nbytes / 16, shape.resident_nbytes
    assert rows(shape, larger).disks == (int(11 * experts + beside), int(5 * experts + beside))
    assert pipeline(shape, larger).layers == (63, 31)
    assert sum(pipeline(shape, larger).layers) == 94


def test_the_pick_is_the_fastest_that_fits():
    shape = shape_of("Qwen3-235B-A22B")
    found = outlooks(shape, machines("Qwen3-235B-A22B", 4, 16, "thunderbolt"), ("pipeline",))
    assert [outlook.way for outlook in found] == ["one machine", "pipeline"]
    chosen = pick(found)
    assert chosen is not None and chosen.way == "pipeline"
    assert pick([replace(outlook, why_not="no") for outlook in found]) is None
    everything = shape_of("OLMoE-1B-7B")
    planned = replace(machines("Qwen3-235B-A22B", 2, 64, "10G"), kv_cache=0)
    chosen = pick(outlooks(everything, planned, ("pipeline",)))
    assert chosen is not None and chosen.way == "one machine", "what fits one machine gains nothing from a pipeline"
