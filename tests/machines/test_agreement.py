"""What a token's sum says of itself: no token is taken of a step that failed on a rank, or of a sum that is none."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_mlx.errors import StepLostError
from moe_mlx.machines.agreement import COUNTS, Agreement

VOCABULARY = 5


class Rank:
    """What a group is to one of its ranks."""

    def __init__(self, rank: int, size: int) -> None:
        self._rank, self._size = rank, size

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._size


def part_of(rank: int, size: int, *, failed: int = 0, stop: bool = False, wish: int = 0) -> tuple[Agreement, mx.array]:
    """A rank's agreement, and what it brings to a sum."""
    brought: list[mx.array] = []

    def keep(array: mx.array, group: Any) -> mx.array:
        brought.append(array)
        return array

    def failed_by(_: mx.array) -> mx.array:
        return mx.array([failed], mx.int32)

    made = Agreement(Rank(rank, size), lambda: (10 * rank + 3, rank, 4096 * rank), failed_by)
    made.wish = wish
    if stop:
        made.stop.set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mx.distributed, "all_sum", keep)
        made.sampler(lambda logprobs: mx.argmax(logprobs, axis=-1))(mx.arange(VOCABULARY)[None].astype(mx.float32))
    made._controls.clear()
    return made, brought[0]


def taken(agreement: Agreement, summed: mx.array) -> Agreement:
    agreement._controls.append(summed)
    agreement.take()
    return agreement


def summed(parts: Sequence[tuple[Agreement, mx.array]]) -> mx.array:
    return mx.sum(mx.stack([brought for _, brought in parts]), axis=0)


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("stop", [False, True])
def test_a_whole_sum_is_rank_0_s_token_and_every_rank_s_counts(size: int, stop: bool):
    parts = [part_of(rank, size, stop=stop) for rank in range(size)]
    total = summed(parts)
    assert total[0].item() == VOCABULARY - 1
    for agreement, _ in parts:
        taken(agreement, total)
        assert agreement.stops is stop
        assert agreement.counted() == [
            dict(zip(COUNTS, (10 * rank + 3, rank, 4096 * rank), strict=True)) for rank in range(size)
        ]


@pytest.mark.parametrize(
    ("wishes", "wished"), [((0, 0, 0), 0), ((1, 1, 1), 1), ((1, 0, 1), 0), ((1, 1, -1), -1), ((0, -1, -1), -1)]
)
def test_one_rank_s_wish_for_room_is_every_rank_s_and_a_larger_cache_is_all_of_theirs(
    wishes: tuple[int, ...], wished: int
):
    parts = [part_of(rank, 3, wish=wish) for rank, wish in enumerate(wishes)]
    for agreement, _ in parts:
        assert taken(agreement, summed(parts)).wished == wished


def test_wishes_that_were_under_way_when_the_caches_changed_are_passed_over():
    parts = [part_of(rank, 2, wish=-rank) for rank in range(2)]
    agreement, total = parts[0][0], summed(parts)
    agreement._controls.extend([total] * 4)
    heard = []
    for token in range(4):
        agreement.take()
        heard.append(agreement.wished)
        if token == 1:
            agreement._controls.pop()  # so that one is under way
            agreement.pass_over()
            assert agreement.wished == 0
            agreement._controls.append(total)
    assert heard == [-1, -1, 0, -1]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_no_rank_takes_the_token_of_a_step_that_failed_on_one(failing: int):
    parts = [part_of(rank, 3, failed=int(rank == failing)) for rank in range(3)]
    for agreement, _ in parts:
        with pytest.raises(StepLostError):
            taken(agreement, summed(parts))


@pytest.mark.parametrize("rank", [0, 1])
def test_what_never_left_this_rank_is_no_sum(rank: int):
    agreement, brought = part_of(rank, 2)
    with pytest.raises(StepLostError):
        taken(agreement, brought)


@given(st.data())
def test_half_a_sum_gives_no_other_numbers(data: st.DataObject):
    """Pieces of a message may have come and others not: what is taken then is what all of it would have been."""
    size = data.draw(st.integers(2, 5))
    parts = [part_of(rank, size) for rank in range(size)]
    whole, mine = np.array(summed(parts)), data.draw(st.integers(0, size - 1))
    cuts = sorted(data.draw(st.lists(st.integers(0, whole.size), min_size=2, max_size=2)))
    broken = np.array(parts[mine][1])
    broken[cuts[0] : cuts[1]] = whole[cuts[0] : cuts[1]]
    try:
        taken(parts[mine][0], mx.array(broken))
    except StepLostError:
        return
    assert np.array_equal(broken[:-1], whole[:-1])


@given(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=13, max_size=13))
def test_memory_that_nobody_wrote_to_is_no_sum(numbers: list[int]):
    agreement, _ = part_of(0, 2)
    with pytest.raises(StepLostError):
        taken(agreement, mx.array(numbers, mx.int32))
