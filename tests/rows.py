"""Of a test's many rows a few stand for the others by day."""

from collections import defaultdict

import pytest


def mark_rows_of_the_night(items: list[pytest.Item]) -> None:
    """Marks as slow what `@pytest.mark.rows_by_day(n)` leaves out: all but the first row and others evenly spread."""
    rows: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("rows_by_day") and not item.get_closest_marker("slow"):
            rows[item.nodeid.partition("[")[0]].append(item)
    for same in rows.values():
        mark = same[0].get_closest_marker("rows_by_day")
        assert mark is not None
        (count,) = mark.args
        kept = {place * len(same) // count for place in range(count)}
        for place, item in enumerate(same):
            if place not in kept:
                item.add_marker("slow")
