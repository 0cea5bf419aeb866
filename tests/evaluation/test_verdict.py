"""The line that an evaluation ends with: what saves most among what costs little, and what is kept of it."""

from dataclasses import replace

import pytest

import moe_mlx
from moe_mlx.evaluation.results import Row
from moe_mlx.evaluation.verdict import verdict_lines, verdicts_of
from moe_mlx.history.verdicts import found_of, keep_verdicts
from moe_mlx.loading.measured import measured
from moe_mlx.store.identity import identity_of

EXACT = Row("50%", 8, "exact", None, None, "lru", 100, 2.0, 0, 0, 0, 1.0, 0.3, 300e3, 0, 9, blocking=10)
NUDGED = replace(
    EXACT, routing="cache-prior", value=0.1, kl=0.001, kl_error=0.0002, agreement=0.985, bytes_per_token=180e3
)
BOLD = replace(NUDGED, value=0.2, kl=0.004, bytes_per_token=120e3, blocking=4)
RASH = replace(NUDGED, value=1.0, kl=0.02, bytes_per_token=60e3)


def test_the_line_names_what_saves_most_at_little_cost():
    (line,) = verdict_lines([EXACT, NUDGED, BOLD, RASH])
    assert line == (
        "verdict at 50%: cache-prior 0.2 costs little (KL 0.004 ± 0.0002, 98.5% of tokens alike), reads 60% less than "
        "exact routing and waits for 60% fewer experts"
    )
    assert verdict_lines([NUDGED]) == [
        "verdict at 50%: cache-prior 0.1 costs little (KL 0.001 ± 0.0002, 98.5% of tokens alike)"
    ]
    assert len(verdict_lines([NUDGED, replace(NUDGED, cache="25%")])) == 2


def test_where_nothing_costs_little_it_says_what_to_do():
    (line,) = verdict_lines([EXACT, RASH, replace(RASH, value=0.5, kl=0.05)])
    assert "nothing that was tried costs little, the least is cache-prior 1" in line and "--routing exact" in line


def test_what_no_setting_of_the_runtime_is_has_no_verdict():
    held, pruned = replace(NUDGED, quality="0.01"), replace(EXACT, routing="pruned", value=2)
    dropped = replace(EXACT, light="dropped", kl=0.001)
    assert verdict_lines([EXACT, held, pruned, dropped]) == [] == verdicts_of([EXACT, held, pruned, dropped])
    assert verdicts_of([replace(NUDGED, top_j=1)]) == [], "another J is another setting"


@pytest.mark.parametrize(("light", "routing"), [("exact", "cache-prior"), ("late", "exact")])
def test_a_loaded_model_says_what_was_measured_of_its_routing(capped, light, routing):
    model, _ = capped(routing=routing, light=light)
    runtime = moe_mlx.runtime_of(model)
    assert "moe-mlx eval" in measured(runtime)
    row = replace(NUDGED, routing=routing, value=0.1 if routing == "cache-prior" else None, light=light)
    keep_verdicts(identity_of(runtime.source), verdicts_of([row, BOLD]))
    assert measured(runtime) == "at 50% KL 0.001, 98.5% of tokens alike"
    runtime.set_routing(routing="exact", light="exact")
    assert measured(runtime) == ""
    assert found_of([], "exact", "late") == ""
