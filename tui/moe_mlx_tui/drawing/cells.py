"""What one cell of the residency map says: one byte per expert, ordered so that the larger value wins a shared cell."""

from __future__ import annotations

ABSENT = 0
#: Resident, by tokens since its last use: `OLDEST` is beyond the last edge, `NEWEST` within the first.
OLDEST, NEWEST = 1, 6
#: Resident in a layer that holds all its experts, where no clock runs.
HELD = 7
EVICTED = 8
USED = 9
ARRIVED = 10
STATES = 11

#: Tokens since the last use, upper ends of the age buckets from `NEWEST` down to `OLDEST` + 1.
AGE_EDGES = (2, 8, 32, 128, 512)

#: slots are little-endian uint16, `NO_SLOT` where the expert is absent.
NO_SLOT = 0xFFFF


def describe(cell: int) -> str:
    """Returns the cell in words, for the cursor's line."""
    if cell == ABSENT:
        return "absent"
    if cell == EVICTED:
        return "just evicted"
    if cell == USED:
        return "used by this token"
    if cell == ARRIVED:
        return "just read"
    if cell == HELD:
        return "held whole"
    bucket = NEWEST - cell
    if bucket == 0:
        return f"used {AGE_EDGES[0]} tokens ago or less"
    if bucket == len(AGE_EDGES):
        return f"used more than {AGE_EDGES[-1]} tokens ago"
    return f"used {AGE_EDGES[bucket - 1] + 1}-{AGE_EDGES[bucket]} tokens ago"


def census(cells: bytes) -> tuple[int, int, int, int]:
    """Returns how many experts are resident, used by this token, just read and just evicted."""
    used, arrived, evicted = cells.count(USED), cells.count(ARRIVED), cells.count(EVICTED)
    return len(cells) - cells.count(ABSENT) - evicted, used, arrived, evicted
