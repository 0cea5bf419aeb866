"""What the findings recommend, and what of it is kept: the calibration that `auto` uses."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moe_mlx.examination.part import DONE, Finding
from moe_mlx.planning.prefetch import LEAST_GAIN
from moe_mlx.routing.names import NATIVE, READBACK
from moe_mlx.system.sizes import show_bytes

#: Less than this is within the spread of such a measurement.
_CLEAR = 1.02
_ENOUGH = 0.95
#: Nothing is chosen by fewer trials, where more were asked for.
_LEAST_TRIALS = 3


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
            if found["streams"][name] is not None:
                kept[name] = found["streams"][name]
    if "decode" in found and _enough("decode", found["decode"], lines):
        _of_decode(found["decode"], lines, kept)
    if "buffers" in found and _enough("buffers", found["buffers"], lines):
        _of_buffers(found["buffers"], lines, kept)
    if "cliff" in found:
        kept["cliff_bytes"] = found["cliff"]["cliff_bytes"]
        if kept["cliff_bytes"] is not None:
            lines.append(f"keep MLX below {show_bytes(kept['cliff_bytes'])} in all: beyond it memory got slower")
    return Advice(tuple(lines), kept)


def _enough(part: str, figures: Mapping[str, Any], lines: list[str]) -> bool:
    if enough := figures["trials"] >= min(_LEAST_TRIALS, figures["asked_trials"]):
        return enough
    lines.append(
        f"nothing by {part}: only {figures['trials']} of {figures['asked_trials']} trials were done in the time"
    )
    return False


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


def _of_decode(figures: Mapping[str, Any], lines: list[str], kept: dict[str, Any]) -> None:
    """Advises what was faster in every round; what was not is noise, which chooses nothing."""
    rounds = figures["rounds"]
    if NATIVE not in rounds:
        lines.append("--decode readback: decode in the graph cannot be had here")
    elif (gain := _clear_gain(rounds[NATIVE], rounds[READBACK])) is not None:
        kept["native_gain"] = gain
        way = NATIVE if gain >= 1 else READBACK
        lines.append(f"--decode {way}: in the graph runs at {gain:.2f} times the speed of reading back")
    else:
        kept["native_gain"] = None
        lines.append("--decode auto: neither way was the faster one in every round")
    if NATIVE in rounds and "prefetch" in rounds:
        gain = _clear_gain(rounds["prefetch"], rounds[NATIVE])
        kept["prefetch_gain"] = 1.0 if gain is None else gain
        much = "no clear gain" if gain is None else f"with it {gain:.2f} times the speed without"
        lines.append(f"--prefetch {'on' if kept['prefetch_gain'] > LEAST_GAIN else 'off'}: {much}")
    if "direct" in rounds:
        gain = _clear_gain(rounds["direct"], rounds.get(NATIVE, rounds[READBACK]))
        io = "direct" if gain is not None and gain > _CLEAR else "cached"
        much = "no clear difference" if gain is None else f"{gain:.2f} times the speed through it"
        lines.append(f"--io {io}: past the page cache {much}")


def _clear_gain(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Returns how many times as fast the one was, the median; None where it was faster in some rounds only."""
    gains = [a / b for a, b in zip(one, other, strict=True)]
    return statistics.median(gains) if min(gains) >= 1 or max(gains) <= 1 else None


def _of_buffers(figures: Mapping[str, Any], lines: list[str], kept: dict[str, Any]) -> None:
    """Advises it where every round was faster with it; MLX's CPU build takes no notice of it."""
    gain = figures["changed"] / figures["own"]
    faster = figures["metal"] and gain > _CLEAR and min(figures["gains"], default=0.0) > 1
    kept["ops_per_buffer"] = figures["value"] if faster else 0
    if faster:
        lines.append(f"MLX_MAX_OPS_PER_BUFFER={figures['value']} in the environment: {gain:.2f} times the speed")
