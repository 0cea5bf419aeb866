"""The picture: what lines it has and where they begin, and that a file comes out."""

from dataclasses import replace

import pytest

from moe_mlx.evaluation.plot import curves, draw
from moe_mlx.evaluation.results import Row

REFERENCE = Row("100%", 32, "exact", None, None, "lru", 100, 4.0, 0, 0, 0, 1, 0, 0, 0, 100, 0.5, 0.0, 10)


def row(routing, value=None, miss=0.3, ppl=4.1, cache="50%", evict="lru"):
    change = ppl / 4.0 - 1
    return replace(
        REFERENCE,
        cache=cache,
        routing=routing,
        value=value,
        evict=evict,
        miss_rate=miss,
        ppl=ppl,
        ppl_change=change,
        task_miss_rate=miss,
    )


ROWS = [
    row("exact", ppl=4.0),
    row("cache-prior", 0.2, 0.2),
    row("cache-prior", 0.1, 0.25),
    row("max-rank", 8, 0.21),
    row("pruned", 1, 0.1, 9.0),
    row("pruned", 2, 0.2, 5.0),
    replace(row("belady", miss=0.15, ppl=4.0), accuracy=None, task_miss_rate=None),
    row("exact", cache="25%"),
    row("cache-prior", 0.1, cache="25%"),
]


def test_lines_begin_at_the_exact_point_and_follow_their_parameter():
    lines = curves([point for point in ROWS if point.cache == "50%"])
    assert [[(p.routing, p.value) for p in line] for line in lines.values()] == [
        [("exact", None), ("cache-prior", 0.1), ("cache-prior", 0.2)],
        [("exact", None), ("max-rank", 8)],
        [("exact", None), ("pruned", 2), ("pruned", 1)],
    ]
    both = curves([*ROWS[:2], row("exact", evict="lfu"), row("cache-prior", 0.1, evict="lfu")])
    assert list(both) == ["Cache-Prior (λ)", "Cache-Prior (λ), LFU"]
    guarded = curves([ROWS[0], replace(ROWS[1], top_j=1), replace(ROWS[2], top_j=0)])
    assert list(guarded) == ["Cache-Prior (λ), J = 1", "Cache-Prior (λ), J = 0"]


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("name", ["p.svg", "p.png"])
def test_a_file_comes_out_the_same_each_time(tmp_path, name):
    draw(tmp_path / name, REFERENCE, ROWS, "tiny")
    draw(tmp_path / f"again-{name}", REFERENCE, ROWS, "tiny")
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()
    assert (tmp_path / name).stat().st_size > 5000


def test_without_tasks_there_is_one_panel(tmp_path):
    bare = [replace(point, accuracy=None, task_miss_rate=None) for point in ROWS]
    draw(tmp_path / "p.svg", replace(REFERENCE, accuracy=None), bare, "tiny")
    assert "tasks answered" not in (tmp_path / "p.svg").read_text()
