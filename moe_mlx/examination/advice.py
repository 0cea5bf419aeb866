"""What the findings recommend, and what of it is kept: the calibration that `auto` uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moe_mlx.examination.part import DONE, Finding
from moe_mlx.planning.prefetch import LEAST_GAIN
from moe_mlx.system.sizes import show_bytes

#: Less than this is within the spread of such a measurement.
_CLEAR = 1.02
_ENOUGH = 0.95


@dataclass(frozen=True, slots=True)
class Advice:
    """What to say, and what to keep.

    Attributes:
        lines: Recommendations, one sentence each.
        calibration: Fields of `system.calibration.Calibration`.
    """

    lines: tuple[str, ...] = ()
    calibration: Mapping[str, Any] = field(default_factory=dict)


def advise(findings: list[Finding]) -> Advice:
    """Returns what the parts that were done recommend; a part that was not is left out, never guessed."""
    found = {finding.part: finding.figures for finding in findings if finding.state == DONE}
    lines: list[str] = []
    kept: dict[str, Any] = {}
    if "disk" in found:
        _of_disk(found["disk"], lines, kept)
    if "streams" in found:
        for name in ("crossing_seconds", "read_back_seconds"):
            kept[name] = found["streams"][name]
    if "decode" in found:
        _of_decode(found["decode"]["tokens_per_second"], lines, kept)
    if "decode" in found and "buffers" in found:
        _of_buffers(found["decode"]["tokens_per_second"], found["buffers"], lines, kept)
    if "cliff" in found:
        kept["cliff_bytes"] = found["cliff"]["cliff_bytes"]
        if kept["cliff_bytes"] is not None:
            lines.append(f"keep MLX below {show_bytes(kept['cliff_bytes'])} in all: beyond it memory got slower")
    return Advice(tuple(lines), kept)


def _of_disk(figures: Mapping[str, Any], lines: list[str], kept: dict[str, Any]) -> None:
    largest = max(row["block"] for row in figures["rows"])
    rows = [row for row in figures["rows"] if row["block"] == largest]
    cold, warm = [row for row in rows if row["cold"]], [row for row in rows if not row["asked_cold"]]
    if warm:
        kept["warm_rate"] = max(row["rate"] for row in warm)
    if not cold:
        lines.append("no read could be made to come from the disk here: cold rates are not known")
        return
    kept["cold_rate"] = best = max(row["rate"] for row in cold)
    kept["readers"] = min(row["depth"] for row in cold if row["rate"] >= _ENOUGH * best)
    lines.append(f"--readers {kept['readers']}: as fast as it gets, {best / 1e9:.2f} GB/s from the disk")


def _of_decode(tps: Mapping[str, float], lines: list[str], kept: dict[str, Any]) -> None:
    if "native" in tps:
        kept["native_gain"] = gain = tps["native"] / tps["readback"]
        way = "native" if gain >= 1 else "readback"
        lines.append(f"--decode {way}: in the graph runs at {gain:.2f} times the speed of reading back")
    else:
        lines.append("--decode readback: decode in the graph cannot be had here")
    if "native" in tps and "prefetch" in tps:
        kept["prefetch_gain"] = gain = tps["prefetch"] / tps["native"]
        lines.append(f"--prefetch {'on' if gain > LEAST_GAIN else 'off'}: with it {gain:.2f} times the speed without")
    if "direct" in tps:
        base = tps.get("native", tps["readback"])
        io = "direct" if tps["direct"] > _CLEAR * base else "cached"
        lines.append(f"--io {io}: past the page cache {tps['direct'] / base:.2f} times the speed through it")


def _of_buffers(tps: Mapping[str, float], buffers: Mapping[str, Any], lines: list[str], kept: dict[str, Any]) -> None:
    """Compares as shares of mlx-lm's speed in the same process: what disturbs a machine disturbs both."""
    ours, theirs = tps.get("native", tps["readback"]), buffers["tokens_per_second"]
    gain = theirs["auto"] / theirs["mlx-lm"] / (ours / tps["mlx-lm"]) * max(1.0, theirs["mlx-lm"] / tps["mlx-lm"])
    faster = gain > _CLEAR
    kept["ops_per_buffer"] = buffers["value"] if faster else 0
    if faster:
        lines.append(f"MLX_MAX_OPS_PER_BUFFER={buffers['value']} in the environment: {gain:.2f} times the speed")
