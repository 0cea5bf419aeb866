"""A layer's bytes between whole and low slots: never more than it has, as many experts in memory as can be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mlx.planning.low_slots import bank_sizes, divide, low_slots_words
from moe_mlx.store import ExpertLayer, TensorSpec


def layer(nbytes: int, experts: int, top_k: int) -> ExpertLayer:
    return ExpertLayer(0, 0, "layers.0", experts, top_k, (TensorSpec("w", "U8", (nbytes,)),))


#: High bits of 4-bit weights in groups of 64 with 16-bit scales are 5/9 of an expert.
NINE = layer(9, 32, 4)


@pytest.mark.parametrize(
    ("slots", "found"),
    [
        (4, (4, 0)),
        (5, (5, 0)),
        (6, (4, 3)),
        (8, (5, 5)),
        (16, (6, 18)),
        (20, (6, 25)),
        (24, (14, 18)),
        (32, (32, 0)),
    ],
)
def test_points_of_one_layer(slots, found):
    assert divide(NINE, slots, 5) == found


@given(st.integers(2, 400), st.integers(1, 64), st.integers(1, 8), st.data())
def test_any_layer(nbytes, experts, top_k, data):
    one = layer(nbytes, experts, min(top_k, experts))
    slots = data.draw(st.integers(one.top_k, experts))
    coarse = data.draw(st.integers(1, nbytes - 1))
    whole, low = divide(one, slots, coarse)
    assert one.top_k <= whole <= experts and 0 <= low <= experts - whole
    held = bank_sizes([one], [whole], [low], [coarse])[0]
    assert held <= slots * nbytes
    assert whole + low >= slots, "low slots hold no fewer experts than whole ones would"
    if low:
        assert low >= one.top_k - 1, "every light expert of a token finds a slot"
        assert whole <= one.top_k + one.top_k // 2 or whole + low == experts
        assert whole == one.top_k or low >= one.top_k or whole + low == experts, "whole slots give way to low ones"
        step = coarse if whole + low < experts else nbytes - coarse
        assert held + step > slots * nbytes or low == one.top_k - 1, "what is left buys no slot more"
    else:
        assert whole == slots


def test_words():
    assert low_slots_words([(4, 18), (4, 18)]) == "4 + 18"
    assert low_slots_words([(4, 18), (6, 10)]) == "4-6 + 10-18"
