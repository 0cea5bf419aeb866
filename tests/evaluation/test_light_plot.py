"""The picture of light experts: which settings make a line, where each begins, the front, and that a file comes out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.evaluation.light_plot import draw_light, front, lines
from moe_mlx.evaluation.results import Row

REFERENCE = Row("100%", 32, "exact", None, None, "lru", 100, 4.0, 0, 0, 0, 1, 0, 0, 0, 100)


def row(routing: str = "exact", value: float | None = None, *, kl: float = 0.0, **more: Any) -> Row:
    bare = replace(REFERENCE, cache="50%", routing=routing, value=value, kl=kl, bytes_per_token=3e5, blocking=10.0)
    return replace(bare, **more)


ROWS = [
    row(),
    row(light="late", beyond=0.6, kl=0.0004, blocking=4.2),
    row(light="late", beyond=0.3, kl=0.002, blocking=3.0),
    row(light="late", beyond=0.6, distance=2, kl=0.0005, blocking=5.0),
    row(light="dropped", beyond=0.6, kl=0.004, blocking=4.2),
    row("cache-prior", 0.2, kl=0.0016, bytes_per_token=1.5e5, blocking=5.2),
    row("cache-prior", 0.1, kl=0.0008, bytes_per_token=1.8e5, blocking=6.3),
    row("cache-prior", 0.1, light="late", beyond=0.6, kl=0.0018, bytes_per_token=1.8e5, blocking=4.0),
    row("pruned", 2, kl=0.05),
    row("pruned", 3, kl=0.01),
    row("ahead", 2, kl=0.02, blocking=2.0),
    row("cache-prior", 0.1, kl=0.0009, top_j=1),
]


def test_lines_go_over_one_parameter_each_from_the_point_they_depart_from():
    made = {line.label: [(p.routing, p.light, p.value, p.beyond) for p in line.rows] for line in lines(ROWS)}
    exact, late = ("exact", "exact", None, 0.6), ("exact", "late", None, 0.6)
    assert made == {
        "exact": [exact],
        "late (beyond)": [exact, late, ("exact", "late", None, 0.3)],
        "late (beyond), 2 layers on": [exact, late],
        "dropped (beyond)": [exact, ("exact", "dropped", None, 0.6)],
        "Cache-Prior (λ)": [exact, ("cache-prior", "exact", 0.1, 0.6), ("cache-prior", "exact", 0.2, 0.6)],
        "Pruned (k')": [exact, ("pruned", "exact", 3, 0.6), ("pruned", "exact", 2, 0.6)],
        "Route ahead (layers)": [exact, ("ahead", "exact", 2, 0.6)],
        "Cache-Prior (λ), J = 1": [exact, ("cache-prior", "exact", 0.1, 0.6)],
        "Cache-Prior (λ), late beyond 0.6": [late, ("cache-prior", "late", 0.1, 0.6)],
    }
    assert {line.label: line.values for line in lines(ROWS)}["Cache-Prior (λ)"] == ("", "0.1", "0.2")


def test_nothing_of_the_front_is_worse_in_both():
    assert front([(3, 1), (1, 5), (2, 2), (2, 3), (4, 1), (5, 0)]) == [(1, 5), (2, 2), (3, 1), (5, 0)]


@pytest.mark.parametrize("name", ["p.svg", "p.png"])
def test_a_file_comes_out_the_same_each_time(tmp_path: Path, name: str):
    both = [*ROWS, *(replace(one, cache="25%") for one in ROWS)]
    for path in (tmp_path / name, tmp_path / f"again-{name}"):
        draw_light(path, REFERENCE, both, "tiny")
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()
    assert (tmp_path / name).stat().st_size > 5000


def test_a_mode_that_is_new_here_is_drawn_too(tmp_path: Path):
    new = replace(ROWS[1], light="coarse")
    draw_light(tmp_path / "p.svg", REFERENCE, [ROWS[0], new], "tiny")
    assert "<svg" in (tmp_path / "p.svg").read_text()
