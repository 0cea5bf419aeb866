"""Who gets which bits: never more than were asked for, and never a better way to spend them on small cases."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mlx.bits.allocation import allocate, check_bits, mean_bits
from moe_mlx.errors import UsageError
from moe_mlx.store.parts import WIDTHS

costs = st.tuples(*(st.floats(0, 100),) * 3).map(lambda found: sorted(found, reverse=True))


def spent(errors: list[list[list[float]]], bits: tuple[tuple[int, ...], ...]) -> float:
    return sum(
        expert[WIDTHS.index(width)]
        for layer, row in zip(errors, bits, strict=True)
        for expert, width in zip(layer, row, strict=True)
    )


@given(st.lists(st.lists(costs, min_size=1, max_size=4), min_size=1, max_size=3), st.floats(2, 4), st.data())
def test_the_mean_is_never_exceeded(errors: list[list[list[float]]], bits: float, data: st.DataObject) -> None:
    sizes = [data.draw(st.sampled_from([64, 96, 128])) for _ in errors]
    found = allocate(errors, sizes, bits)
    assert mean_bits(found, sizes) <= bits + 1e-6
    assert all(width in WIDTHS for row in found for width in row)
    more = allocate(errors, sizes, 4)
    assert spent(errors, more) <= spent(errors, found) <= spent(errors, allocate(errors, sizes, 2))


@given(st.lists(costs, min_size=2, max_size=5))
def test_at_what_the_steps_come_to_nothing_is_better(layer: list[list[float]]) -> None:
    """A greedy way over hulls is best at every budget that it uses up."""
    for budget in range(2 * len(layer), 4 * len(layer) + 1):
        (found,) = allocate([layer], [1], budget / len(layer))
        if sum(found) == budget:
            best = min(
                spent([layer], (row,)) for row in itertools.product(WIDTHS, repeat=len(layer)) if sum(row) <= budget
            )
            steps = sum(found) == budget and spent([layer], (found,)) <= best + 1e-9
            hull = all(a - b >= b - c - 1e-9 for a, b, c in layer)
            assert steps or not hull


def test_ends_and_ties() -> None:
    same = [[[4.0, 1.0, 0.0]] * 3]
    assert allocate(same, [1], 2) == ((2, 2, 2),)
    assert allocate(same, [1], 4) == ((4, 4, 4),)
    assert allocate(same, [1], 2 + 1 / 3) == ((3, 2, 2),)
    # An expert that two bits serve as well as four has nothing taken from others.
    assert allocate([[[5.0, 5.0, 0.0], [1.0, 0.9, 0.85]]], [1], 3) == ((4, 2),)


@pytest.mark.parametrize("bits", [1.9, 4.1, float("nan")])
def test_a_mean_that_no_widths_have_is_refused(bits: float) -> None:
    with pytest.raises(UsageError, match="give 2 to 4"):
        check_bits(bits)
