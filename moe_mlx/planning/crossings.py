"""What a decode step in the graph pays for layers under a cap: the GPU waits for the CPU and the CPU for the GPU, once.

A layer whose experts are all in memory is not asked, and crosses nothing. `tests/native/test_crossings.py` counts the
edges of the graph itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from moe_mlx.store import ExpertLayer
from moe_mlx.system.calibration import read_calibration
from moe_mlx.system.metal import working_set_bytes

#: Of a capped layer, native: one array to the fetch's stream, one back.
PER_LAYER = 2
#: There and back by Metal's events, as others measured it (150 to 200 us); `moe-mlx doctor` measures this machine.
PUBLISHED_SECONDS = 0.2e-3
#: Cold reads of a Mac's SSD, where this machine is not calibrated.
_PUBLISHED_RATE = 3e9


def capped_layers(layers: Sequence[ExpertLayer], slots: Sequence[int]) -> int:
    """Returns how many layers have fewer slots than experts: each is read back once a token, or crosses twice."""
    return sum(count < layer.experts for layer, count in zip(layers, slots, strict=True))


def price_bytes() -> float:
    """Returns what a capped layer costs a token, as bytes that the disk reads meanwhile; 0 where nothing crosses."""
    found = read_calibration()
    seconds = found.crossing_seconds if found is not None else None
    if seconds is None:
        seconds = PUBLISHED_SECONDS if working_set_bytes() is not None else 0.0
    rate = found.cold_rate if found is not None and found.cold_rate else _PUBLISHED_RATE
    return seconds * rate
