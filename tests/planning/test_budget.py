"""A cap in bytes among layers that differ: kept to the byte, and refused only below top_k of each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mlx.errors import DoesNotFitError
from moe_mlx.planning.budget import Cap, MemoryPlan, cache_bytes, plan_memory, slots_for_bytes
from moe_mlx.store import ExpertLayer, TensorSpec

PLENTY = 10**15


def layer(index: int, nbytes: int, experts: int, top_k: int) -> ExpertLayer:
    return ExpertLayer(index, index, f"layers.{index}", experts, top_k, (TensorSpec("w", "U8", (nbytes,)),))


@st.composite
def models(draw: st.DrawFn) -> list[ExpertLayer]:
    """Layers of different sizes, as quantisation by layer makes them, and with different counts."""
    sizes = draw(
        st.lists(st.tuples(st.integers(1, 500), st.integers(3, 64), st.integers(1, 3)), min_size=1, max_size=6)
    )
    return [layer(index, *size) for index, size in enumerate(sizes)]


def plan(layers: list[ExpertLayer], cap: Cap, available: int = PLENTY) -> MemoryPlan:
    return plan_memory(layers, cap, resident_weights=0, kv_cache=0, available=available)


def floor_of(layers: list[ExpertLayer]) -> int:
    return cache_bytes(layers, [each.top_k for each in layers])


@given(models(), st.floats(0, 1))
def test_every_cap_from_the_floor_up_is_taken_and_kept(layers: list[ExpertLayer], where: float):
    floor, everything = floor_of(layers), sum(each.nbytes for each in layers)
    cap = floor + int(where * (everything - floor))
    made = plan(layers, Cap(nbytes=cap))
    assert made.expert_cache <= cap
    assert all(each.top_k <= slots <= each.experts for each, slots in zip(layers, made.slots, strict=True))
    if where == 0:
        assert made.slots == tuple(each.top_k for each in layers)
    if where == 1:
        assert made.slots == tuple(each.experts for each in layers)


@given(models(), st.floats(0, 1), st.floats(0, 1))
def test_more_bytes_never_give_a_layer_fewer_slots(layers: list[ExpertLayer], one: float, other: float):
    everything = sum(each.nbytes for each in layers)
    few, many = (slots_for_bytes(layers, part * everything) for part in sorted((one, other)))
    assert all(a <= b for a, b in zip(few, many, strict=True))


def test_below_the_floor_both_ends_are_named():
    layers = [layer(0, 333, 4, 2), layer(1, 100, 8, 2)]
    assert plan(layers, Cap(nbytes=866)).slots == (2, 2)
    with pytest.raises(DoesNotFitError, match=r"smallest expert cache is 866 B.* largest that fits here 2\.1 kB"):
        plan(layers, Cap(nbytes=865))


def test_auto_takes_the_floor_where_a_layer_s_share_would_be_less():
    layers = [layer(0, 333 * 10**6, 4, 2), layer(1, 10**8, 8, 2)]
    made = plan(layers, Cap(), available=10**9)
    assert made.slots == (2, 2)
