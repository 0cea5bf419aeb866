"""Who gets which bits: as little error in all layers together as a mean allows. Pure Python."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from moe_mlx.errors import UsageError
from moe_mlx.store.parts import WIDTHS

#: Errors of one expert, one for each of `WIDTHS`.
Errors = Sequence[float]


def check_bits(bits: float) -> float:
    """Refuses a mean that no widths have.

    Raises:
        UsageError: it is below the least width or above the largest.
    """
    if not WIDTHS[0] <= bits <= WIDTHS[-1]:
        raise UsageError(f"{bits:g} bits a weight: give {WIDTHS[0]} to {WIDTHS[-1]}, such as 3.5")
    return bits


def allocate(errors: Sequence[Sequence[Errors]], sizes: Sequence[int], bits: float) -> tuple[tuple[int, ...], ...]:
    """Returns the bits of each expert of each layer.

    Every expert starts at the least width. Then bits go where one more saves the most error, on the lower convex hull
    of each expert's errors, until the mean is reached; ties go to the first.

    Args:
        errors: By layer, by expert.
        sizes: Weights of one expert, by layer.
        bits: The mean over all weights, which is not exceeded.
    """
    found = [[WIDTHS[0]] * len(layer) for layer in errors]
    left = sum(size * len(layer) for size, layer in zip(sizes, errors, strict=True)) * (bits - WIDTHS[0]) + 1e-6
    steps = [
        (saved, index, expert, width)
        for index, layer in enumerate(errors)
        for expert, costs in enumerate(layer)
        for saved, width in _steps(costs, sizes[index])
    ]
    # A hull's slopes fall, and sorting is stable, so that each expert's steps stay in order.
    for _, index, expert, width in sorted(steps, key=lambda step: -step[0]):
        wanted = sizes[index] * (width - found[index][expert])
        if wanted <= left:
            found[index][expert] = width
            left -= wanted
    return tuple(map(tuple, found))


def _steps(costs: Errors, size: int) -> list[tuple[float, int]]:
    """Returns the corners of the hull behind the first one: error saved a weight and bit, and the width there."""
    hull: list[int] = []
    for place in range(len(WIDTHS)):
        while len(hull) > 1 and _slope(costs, hull[-2], place) >= _slope(costs, hull[-2], hull[-1]):
            hull.pop()
        hull.append(place)
    return [(_slope(costs, few, many) / size, WIDTHS[many]) for few, many in pairwise(hull)]


def _slope(costs: Errors, few: int, many: int) -> float:
    return (costs[few] - costs[many]) / (WIDTHS[many] - WIDTHS[few])


def mean_bits(bits: Sequence[Sequence[int]], sizes: Sequence[int]) -> float:
    """Returns the mean over all weights; arguments as of `allocate`."""
    weights = sum(size * len(layer) for size, layer in zip(sizes, bits, strict=True))
    return sum(size * sum(layer) for size, layer in zip(sizes, bits, strict=True)) / weights
