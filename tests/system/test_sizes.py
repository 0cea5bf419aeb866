"""Sizes as people read them."""

import pytest

from moe_mlx.system.sizes import sizes_alike


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ([5_000_000, 90_000_000], ["5.000 MB", "90.000 MB"]),
        ([5_000_000, 200_000_000], ["0.005 GB", "0.200 GB"]),
        ([], []),
    ],
)
def test_a_column_has_one_unit(sizes: list[int], shown: list[str]):
    assert sizes_alike(sizes) == shown
