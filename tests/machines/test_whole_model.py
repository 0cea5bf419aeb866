"""A model over several machines seen as one: counts that add up, maps that are put together, figures that are none."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moe_mlx.conversation import whole_model
from moe_mlx.conversation.figures import MAP, packed, unpacked
from moe_mlx.conversation.whole_model import WholeModel, together
from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.machines.launched import Launch
from moe_mlx.machines.pulse import Pulse
from moe_mlx.machines.rank_lines import describe_ranks

#: Rank 1 runs the first layer, with three experts; rank 0 the second, with two.
PARTS = (
    {"layers": [1], "experts": [2], "top_k": [1], "expert_bytes": [10]},
    {"layers": [0], "experts": [3], "top_k": [2], "expert_bytes": [20]},
)


def figures(hits: int, slots: int) -> dict[str, Any]:
    counts = PhaseTotals(steps=4, tokens=4, hits=hits, misses=1, bytes_read=100).as_dict()
    return {
        "routing": "exact",
        "decode_way": "readback",
        "slots_per_layer": [slots],
        "low_slots_per_layer": [0],
        "layers": [[hits, 1]],
        "decode": counts,
        "prefill": counts,
        "memory": {"footprint": hits * 1000, "total": 10**6},
    }


def map_of(slots: list[int]) -> dict[str, str]:
    return {name: packed(np.array(slots, dtype=kind)) for name, kind in MAP.items()}


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> WholeModel:
    monkeypatch.setattr(whole_model, "figures_of", lambda runtime: figures(5, 1))
    monkeypatch.setattr(whole_model, "map_of", lambda runtime: map_of([7, 8]))
    launch = Launch(0, 2, "ring", ("a", "b"), ("a", 1))
    meeting: Any = SimpleNamespace(pulse=Pulse([1], leads=True), launch=launch)
    return WholeModel(SimpleNamespace(), meeting, PARTS, by_layers=True)  # type: ignore[arg-type]


def test_layers_stand_in_the_model_s_order(whole: WholeModel):
    assert whole.facts() == {
        "layers": [0, 1],
        "experts": [3, 2],
        "top_k": [2, 1],
        "expert_bytes": [20, 10],
        "ranks": [1, 0],
    }
    whole.meeting.pulse.hear(1, {"figures": figures(9, 2) | map_of([1, 2, 3])})
    found = whole.with_map()
    assert unpacked(found, "slot_of").tolist() == [1, 2, 3, 7, 8]
    assert found["slots_per_layer"] == [2, 1] and found["layers"] == [[9, 1], [5, 1]]
    assert (found["decode"]["hits"], found["decode"]["tokens"], found["decode"]["bytes_read"]) == (14, 4, 200)
    assert [row["memory"]["footprint"] for row in found["machines"]] == [5000, 9000]
    assert [row["machine"] for row in found["machines"]] == ["rank 0 (a)", "rank 1 (b)"]


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"decode": 3},
        figures(9, 2) | {"layers": []},
        figures(9, 2) | {"layers": [["x", 1]]},
        figures(9, 2) | {"decode": {"hits": 1}},
        figures(9, 2) | {"memory": None},
        {name: "" for name in figures(9, 2)} | {"slot_of": "no"},
    ],
)
def test_what_is_no_figure_leaves_a_rank_empty(whole: WholeModel, told: dict[str, Any]):
    whole.meeting.pulse.hear(1, {"figures": told})
    found = whole.with_map()
    assert unpacked(found, "slot_of").tolist() == [-1, -1, -1, 7, 8] and unpacked(found, "uses").tolist()[:3] == [0] * 3
    assert found["decode"]["hits"] == 5 and found["slots_per_layer"] == [0, 1]


def test_a_map_of_another_model_is_not_drawn(whole: WholeModel):
    whole.meeting.pulse.hear(1, {"figures": figures(9, 2) | map_of([1, 2])})
    assert unpacked(whole.with_map(), "slot_of").tolist() == [-1, -1, -1, 7, 8]


def test_maps_are_sent_while_somebody_looks(whole: WholeModel):
    leads, follows = whole.meeting.pulse, Pulse([0], leads=False)
    follows.figures = lambda whole: {"whole": whole}
    follows.hear(0, leads.sign())
    assert follows.sign()["figures"] == {"whole": False}
    whole.with_map()
    follows.hear(0, leads.sign())
    assert follows.sign()["figures"] == {"whole": True}


def test_a_sign_of_life_outlives_figures_that_fail():
    pulse = Pulse([0], leads=False)

    def failing(whole: bool) -> dict[str, Any]:
        raise ValueError("a table that changed")

    pulse.figures = failing
    assert pulse.sign() == {"beat": True}


def test_ranks_that_share_rows_count_the_same_choices_and_their_own_bytes():
    row = PhaseTotals(steps=2, tokens=2, hits=6, misses=2, bytes_read=50, wasted_bytes=3).as_dict()
    assert together([row, row], by_layers=False) == PhaseTotals(2, 2, 6, 2, 0, 100, wasted_bytes=6)
    assert together([row, row], by_layers=True) == PhaseTotals(2, 2, 12, 4, 0, 100, wasted_bytes=6)


def test_a_rank_s_line_has_its_layers_reads_waits_and_memory():
    decode = PhaseTotals(hits=3, misses=1, bytes_read=5 * 10**6, wait_seconds=0.25).as_dict()
    row = {
        "machine": "rank 1 (b)",
        "layers": [4, 5, 7],
        "decode": decode,
        "prefill": PhaseTotals(bytes_read=10**6).as_dict(),
        "seconds": 2.0,
        "expert_cache_bytes": 10**9,
        "resident_bytes": 2 * 10**9,
        "decode_way": "native",
    }
    assert describe_ranks([row]) == [
        "rank 1 (b): layers 4-7, hit 75%, read 6.0 MB (3.0 MB/s), waited 0.25 s, experts 1.0 GB, resident 2.0 GB, "
        "decode native"
    ]
