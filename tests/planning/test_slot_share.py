"""Slots by measured need: within the same bytes, never worse on its own curves, the best where curves are convex."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mlx.errors import UsageError
from moe_mlx.history.file import LayerHistory
from moe_mlx.planning import crossings
from moe_mlx.planning.crossings import capped_layers
from moe_mlx.planning.slot_share import (
    ENOUGH_TOKENS,
    check_share,
    curve_of,
    curves_of,
    measured_slots,
    missed_bytes,
    priced,
)
from moe_mlx.store import ExpertLayer, TensorSpec
from moe_mlx.system.calibration import Calibration
from tests.metal_fakes import FakeMetal

EXPERTS, TOP_K = 8, 2


def layer(index: int, floats: int = 1) -> ExpertLayer:
    return ExpertLayer(index, index, f"layers.{index}", EXPERTS, TOP_K, (TensorSpec("w", "F32", (floats,)),))


def spent(layers: list[ExpertLayer], slots: tuple[int, ...]) -> int:
    return sum(one.expert_nbytes * count for one, count in zip(layers, slots, strict=True))


Distances = st.lists(st.integers(0, 100), min_size=EXPERTS + 1, max_size=EXPERTS + 1)


@given(st.lists(st.tuples(Distances, st.integers(1, 5)), min_size=1, max_size=5), st.integers(TOP_K, EXPERTS))
def test_within_bounds_and_bytes_and_never_worse(rows, count: int):
    layers = [layer(index, floats) for index, (_, floats) in enumerate(rows)]
    curves, even = [curve_of(distances, TOP_K) for distances, _ in rows], [count] * len(rows)
    slots = measured_slots(layers, curves, even)
    assert all(TOP_K <= number <= EXPERTS for number in slots)
    assert spent(layers, slots) <= spent(layers, even)
    assert missed_bytes(layers, curves, slots) <= missed_bytes(layers, curves, even)


@given(
    st.lists(Distances.map(lambda row: sorted(row, reverse=True)), min_size=3, max_size=3), st.integers(TOP_K, EXPERTS)
)
def test_the_best_there_is_where_every_slot_saves_less_than_the_one_before(rows: list[list[int]], count: int):
    layers, curves = [layer(index) for index in range(3)], [curve_of(row, TOP_K) for row in rows]
    best = min(
        missed_bytes(layers, curves, slots)
        for slots in product(range(TOP_K, EXPERTS + 1), repeat=3)
        if sum(slots) <= 3 * count
    )
    slots = measured_slots(layers, curves, [count] * 3)
    assert missed_bytes(layers, curves, slots) == pytest.approx(best)


def test_a_flat_stretch_before_a_fall_hides_nothing():
    flat = [0, 0, 0, 0, 0, 0, 90, 0, 0]  # nothing before the seventh slot, then everything
    slow = [0, 0, 4, 4, 4, 4, 4, 4, 0]
    curves = [curve_of(flat, 1), curve_of(slow, 1)]
    assert measured_slots([layer(0), layer(1)], curves, [5, 5]) == (7, 3)


def test_a_curve_counts_what_comes_back_too_late_and_no_first_use():
    assert curve_of([0, 6, 0, 2, 12], 2) == (0.8, 0.8, 0.2, 0.2, 0.0)
    assert curve_of([0, 0, 0], 2) == (0.0, 0.0, 0.0)


def test_a_history_without_enough_tokens_has_no_curves():
    layers = [layer(0), layer(1)]

    def past(tokens: int) -> LayerHistory:
        return LayerHistory((0.0,) * EXPERTS, (0.0,) * EXPERTS, (0.0, float(TOP_K * tokens), *(0.0,) * (EXPERTS - 1)))

    assert curves_of(None, layers)[0] is None
    curves, reason = curves_of((past(ENOUGH_TOKENS), past(ENOUGH_TOKENS - 1)), layers)
    assert curves is None and f"{ENOUGH_TOKENS - 1} tokens" in reason
    assert curves_of((past(ENOUGH_TOKENS), past(ENOUGH_TOKENS)), layers)[0] is not None


def test_there_are_two_shares():
    assert check_share("measured") == "measured"
    with pytest.raises(UsageError, match="even, measured"):
        check_share("fair")


def test_the_price_of_a_capped_layer_makes_layers_whole():
    """Near full residency the even share leaves every layer one slot short, and each of them crosses."""
    layers = [layer(index) for index in range(8)]
    curves = [tuple(0.01 * (EXPERTS - slots) for slots in range(EXPERTS + 1))] * 8
    even = [EXPERTS - 1] * 8
    assert set(measured_slots(layers, curves, even)) == {EXPERTS - 1}
    slots = measured_slots(layers, priced(curves, layers, 4.0), even)
    assert slots.count(EXPERTS) >= 6
    assert spent(layers, slots) <= spent(layers, even)
    assert capped_layers(layers, slots) == 8 - slots.count(EXPERTS)


@given(st.lists(Distances, min_size=1, max_size=4), st.integers(TOP_K, EXPERTS), st.floats(0, 100))
def test_a_price_keeps_bounds_and_bytes(rows, count: int, price: float):
    layers = [layer(index) for index in range(len(rows))]
    curves = priced([curve_of(row, TOP_K) for row in rows], layers, price)
    even = [count] * len(rows)
    slots = measured_slots(layers, curves, even)
    assert all(TOP_K <= number <= EXPERTS for number in slots)
    assert spent(layers, slots) <= spent(layers, even)
    assert missed_bytes(layers, curves, slots) <= missed_bytes(layers, curves, even)


def test_what_a_crossing_costs_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crossings, "read_calibration", lambda: None)
    assert crossings.price_bytes() == 0  # one stream: nothing crosses
    FakeMetal(16 << 30, 11 << 30).install(monkeypatch)
    assert crossings.price_bytes() == pytest.approx(0.2e-3 * 3e9)
    measured = Calibration(crossing_seconds=1e-4, cold_rate=5e9)
    monkeypatch.setattr(crossings, "read_calibration", lambda: measured)
    assert crossings.price_bytes() == pytest.approx(5e5)
