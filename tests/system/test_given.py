"""What a user gave: whole numbers, choices and lists, each complaint in the caller's own words."""

from typing import Any

import numpy as np
import pytest

from moe_mlx.errors import UsageError
from moe_mlx.system.given import check_choice, check_whole, is_whole, split_list


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_whole_numbers_are_taken(value: Any):
    check_whole("readers", value)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_what_is_no_whole_number_is_refused(value: Any):
    with pytest.raises(UsageError, match=r"^readers is .*: give a whole number of threads, 1 or more$"):
        check_whole("readers", value, of="threads")


def test_a_least_number_is_the_caller_s():
    assert is_whole(0, 0) and not is_whole(-1, 0) and is_whole(-5, None) and not is_whole(2, 3)


def test_a_choice_is_returned_or_the_others_are_named():
    assert check_choice("share", "even", ("even", "measured")) == "even"
    with pytest.raises(UsageError, match="unknown share 'odd': choose one of even, measured"):
        check_choice("share", "odd", ("even", "measured"))


def test_lists_keep_their_order_and_each_item_once():
    assert split_list(" b, a,,b ", "--x", str) == ["b", "a"]
    assert split_list("8,2,8", "--x", int) == [8, 2]


@pytest.mark.parametrize(
    ("text", "kind", "allowed", "said"),
    [
        (",", str, None, "--x is empty"),
        ("1,two", int, None, "--x '1,two': 'two' is no whole number"),
        ("0.1,high", float, None, "--x '0.1,high': 'high' is no number"),
        ("a,c", str, ("a", "b"), "--x 'a,c': 'c' is none of a, b"),
    ],
)
def test_lists_that_are_refused(text: str, kind: Any, allowed: Any, said: str):
    with pytest.raises(UsageError, match=said):
        split_list(text, "--x", kind, allowed=allowed)
