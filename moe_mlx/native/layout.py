"""Whether the primitive's idea of the memory that it shares with Python is Python's own, name by name."""

from __future__ import annotations

import ctypes
from types import ModuleType

from moe_mlx.counts.event_log import EventLog
from moe_mlx.counts.reads import BUCKETS, DEPTHS
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx.expert_cache.table_state import TableState

_CODES = {ctypes.c_int64: "q", ctypes.c_double: "d"}


def table_state() -> list[tuple[str, str]]:
    """Returns names and type codes of `TableState`, in order."""
    return [(name, _CODES[kind]) for name, kind in TableState._fields_]


def layout_problem(module: ModuleType) -> str:
    """Returns what of the shared memory is laid out otherwise there, in a few words; "" where nothing is."""
    theirs: dict[str, str] = module.TABLE_ARRAYS
    for name, code in theirs.items():
        if ResidencyTable.ARRAYS.get(name) != code:
            return f"its residency table has another layout ({name})"
    if table_state() != module.TABLE_STATE:
        return "its residency table has another layout (state)"
    if ([*EventLog.FIELDS], EventLog.ROWS) != (module.EVENT_FIELDS, module.EVENT_ROWS):
        return "its event log has another layout"
    if (DEPTHS, BUCKETS) != (module.READ_DEPTHS, module.READ_BUCKETS):
        return "its log of reads has another layout"
    return ""
