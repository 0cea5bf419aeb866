"""The single numbers of a residency table, in memory that the primitive works on too."""

from __future__ import annotations

import ctypes


class TableState(ctypes.Structure):
    """What a table keeps once, not once a slot or an expert.

    Attributes:
        clock: Stamp of the latest touch.
        range_tokens: Tokens in the running range of logits.
        stamp: The latest stamp given to `last`.
        pins: How many experts are pinned.
        gain: What a touch adds to an expert's heat, for the aged LFU.
        range_sum: Sum of the logit ranges.
        score_range: Range of the scores of the running event, for the eviction that knows the router; else 0.
    """

    _fields_ = (
        ("clock", ctypes.c_int64),
        ("range_tokens", ctypes.c_int64),
        ("stamp", ctypes.c_int64),
        ("pins", ctypes.c_int64),
        ("gain", ctypes.c_double),
        ("range_sum", ctypes.c_double),
        ("score_range", ctypes.c_double),
    )
    clock: int
    range_tokens: int
    stamp: int
    pins: int
    gain: float
    range_sum: float
    score_range: float

    def tobytes(self) -> bytes:
        """Returns all of them as they lie in memory."""
        return bytes(self)
