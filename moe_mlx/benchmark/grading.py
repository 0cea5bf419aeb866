"""From a bench to a calibration: the rate of weights, what a capped layer adds, what prefetch gains."""

from __future__ import annotations

import statistics
from dataclasses import replace

from moe_mlx.benchmark.results import BenchResult, Row
from moe_mlx.errors import UsageError
from moe_mlx.planning.prefetch import LEAST_GAIN
from moe_mlx.planning.shape import ModelShape
from moe_mlx.routing.names import EXACT
from moe_mlx.system.calibration import calibration_path, store_calibration
from moe_mlx.system.machine import machine_line


def weight_rate(result: BenchResult, shape: ModelShape) -> float:
    """Returns the bytes of weights a second that decode goes through with everything resident.

    Raises:
        UsageError: nothing in the bench was resident.
    """
    speeds = [row.baseline_decode_tps.median for row in result.rows if row.baseline_decode_tps]
    speeds = speeds or [row.decode_tps.median for row in result.rows if not row.misses_per_token]
    if not speeds:
        raise UsageError("--calibrate needs a baseline, or a setting with every expert resident (--expert-cache 100%)")
    return statistics.median(speeds) * shape.active_nbytes


def layer_seconds(result: BenchResult, shape: ModelShape) -> float | None:
    """Returns what a capped layer adds to a step beside waiting for reads; None where no row tells."""
    found = [
        (1 - row.wait_share) / row.decode_tps.median - 1 / row.baseline_decode_tps.median
        for row in result.rows
        if row.baseline_decode_tps and _capped(row, result) and not row.prefetched and row.setting.light == EXACT
    ]
    return max(0.0, statistics.median(found) / len(shape.layers)) if found else None


def _capped(row: Row, result: BenchResult) -> bool:
    return row.slots_per_layer < int(result.model["experts"])


def prefetch_gain(result: BenchResult) -> float | None:
    """Returns decode speed with prefetch as a multiple of that without: the median over settings measured both ways.

    Speeds are taken as shares of the baseline where each has one beside it; where the trials of both ways overlap,
    neither is faster. None where nothing was measured both ways.
    """
    without = {row.setting: row for row in result.rows if row.setting.prefetch == "off"}
    found = []
    for row in result.rows:
        other = without.get(replace(row.setting, prefetch="off"))
        if other is None or not row.prefetched or row.setting.prefetch == "off":
            continue
        if max(row.decode_tps.low, other.decode_tps.low) < min(row.decode_tps.high, other.decode_tps.high):
            found.append(1.0)
        elif row.decode_share is not None and other.decode_share is not None:
            found.append(row.decode_share / other.decode_share)
        else:
            found.append(row.decode_tps.median / other.decode_tps.median)
    return statistics.median(found) if found else None


def keep_rates(result: BenchResult, shape: ModelShape) -> str:
    """Stores what the bench tells and says where.

    Raises:
        UsageError: it tells nothing that is kept.
    """
    gain = prefetch_gain(result)
    measured: dict[str, object] = {}
    said = []
    try:
        measured["weight_rate"] = weights = weight_rate(result, shape)
        said.append(f"weights at {weights / 1e9:.2f} GB/s")
    except UsageError:
        if gain is None:
            raise
    if measured and (layer := layer_seconds(result, shape)) is not None:
        measured["layer_seconds"] = layer
        said.append(f"{layer * 1e6:.0f} us a capped layer")
    if gain is not None:
        measured["prefetch_gain"] = gain
        said.append(f"prefetch {gain:.2f}x (auto is {'on' if gain > LEAST_GAIN else 'off'})")
    store_calibration(date=result.machine["date"], machine=machine_line(result.machine), **measured)
    return f"{', '.join(said)}, kept in {calibration_path()}: `moe-mlx plan --calibrated`"
