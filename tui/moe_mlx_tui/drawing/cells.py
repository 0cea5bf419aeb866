"""What one cell of the residency map says: one byte per expert.

The low four bits are its state, ordered so that the larger one wins a shared cell; what else is known of it are flags
above them. How a state looks and is called is a row of `ramp.LOOKS`.
"""

from __future__ import annotations

ABSENT = 0
#: Resident, by tokens since its last use: `OLDEST` is beyond the last edge, `NEWEST` within the first.
OLDEST, NEWEST = 1, 6
#: Resident in a layer that holds all its experts, where no clock runs.
HELD = 7
EVICTED = 8
USED = 9
ARRIVED = 10
#: Just read, and so light that its output was added a layer later.
LATE = 11
STATES = 12

#: The bits of a state, and the flag of an expert that is resident at fewer bits a weight than its file has.
STATE_BITS, COARSE = 0x0F, 0x10

#: Tokens since the last use, upper ends of the age buckets from `NEWEST` down to `OLDEST` + 1.
AGE_EDGES = (2, 8, 32, 128, 512)

#: slots are little-endian uint16, `NO_SLOT` where the expert is absent.
NO_SLOT = 0xFFFF

_STATE_ALONE = bytes(cell & STATE_BITS for cell in range(256))
#: States of an expert that is not in memory.
ELSEWHERE = (ABSENT, EVICTED)


def describe(cell: int) -> str:
    """Returns the cell in words, for the cursor's line."""
    state = cell & STATE_BITS
    if OLDEST <= state <= NEWEST:
        words = _age(NEWEST - state)
    else:
        words = {
            ABSENT: "absent",
            EVICTED: "just evicted",
            USED: "used by this token",
            ARRIVED: "just read",
            LATE: "just read, added a layer late",
            HELD: "held whole",
        }[state]
    return f"{words}, coarse" if cell & COARSE else words


def _age(bucket: int) -> str:
    if bucket == 0:
        return f"used {AGE_EDGES[0]} tokens ago or less"
    if bucket == len(AGE_EDGES):
        return f"used more than {AGE_EDGES[-1]} tokens ago"
    return f"used {AGE_EDGES[bucket - 1] + 1}-{AGE_EDGES[bucket]} tokens ago"


def states_of(cells: bytes) -> bytes:
    """Returns the cells without their flags."""
    return cells.translate(_STATE_ALONE)


def resident_count(cells: bytes) -> int:
    """Returns how many experts are in memory."""
    states = states_of(cells)
    return len(states) - sum(map(states.count, ELSEWHERE))
