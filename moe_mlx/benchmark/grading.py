"""From a bench to a calibration: at what rate weights go through, and what a capped layer adds."""

from __future__ import annotations

import statistics

from moe_mlx.benchmark.calibration import calibration_path, store_calibration
from moe_mlx.benchmark.machine import machine_line
from moe_mlx.benchmark.results import BenchResult, Row
from moe_mlx.benchmark.shape import ModelShape
from moe_mlx.errors import UsageError


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
        if row.baseline_decode_tps and _capped(row, result)
    ]
    return max(0.0, statistics.median(found) / len(shape.layers)) if found else None


def _capped(row: Row, result: BenchResult) -> bool:
    return row.slots_per_layer < int(result.model["experts"])


def keep_rates(result: BenchResult, shape: ModelShape) -> str:
    """Stores the rates and says where."""
    weights, layer = weight_rate(result, shape), layer_seconds(result, shape)
    measured: dict[str, object] = {"weight_rate": weights}
    if layer is not None:
        measured["layer_seconds"] = layer
    store_calibration(date=result.machine["date"], machine=machine_line(result.machine), **measured)
    text = "" if layer is None else f", {layer * 1e6:.0f} us a capped layer"
    return f"weights at {weights / 1e9:.2f} GB/s{text}, kept in {calibration_path()}: `moe-mlx plan --calibrated`"
