"""The examination as Markdown, to read and to post: no name of a person, a host or a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from moe_mlx.examination.advice import Advice
from moe_mlx.examination.part import DONE, PARTS, Finding
from moe_mlx.system.sizes import show_bytes


def markdown(findings: Sequence[Finding], advice: Advice, *, small: bool) -> str:
    """Returns the whole report."""
    titles = {part.name: part.title for part in PARTS}
    blocks = ["# moe-mlx doctor"]
    if small:
        blocks.append("**Small sizes: this shows that the parts run; its figures measure nothing.**")
    for finding in findings:
        blocks.append(f"## {titles[finding.part]}")
        if finding.state == DONE:
            blocks.append(_SHOWN.get(finding.part, _plain)(finding.figures))
        else:
            blocks.append(f"**{finding.state}**: {finding.reason}")
    blocks.append("## Recommended here")
    blocks.append("\n".join(f"- {line}" for line in advice.lines) or "Nothing: no part that would say was done.")
    took = ", ".join(f"{finding.part} {finding.seconds:.0f} s" for finding in findings)
    blocks.append(f"Took {sum(finding.seconds for finding in findings):.0f} s: {took}.")
    return "\n\n".join(blocks) + "\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines)


def _plain(figures: dict[str, Any]) -> str:
    return table(["", ""], [[name.replace("_", " "), _value(name, value)] for name, value in figures.items()])


def _value(name: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_bytes"):
        return show_bytes(value)
    return str(value).replace("|", "\\|")


def _disk(figures: dict[str, Any]) -> str:
    rows = [
        [
            show_bytes(row["block"]),
            str(row["depth"]),
            ("disk" if row["cold"] else "disk, asked for and not had") if row["asked_cold"] else "page cache",
            f"{row['rate'] / 1e9:.2f} GB/s",
        ]
        for row in figures["rows"]
    ]
    return table(["block", "at once", "from", "rate"], rows)


def _streams(figures: dict[str, Any]) -> str:
    rows = [
        ["work between two of them", f"{figures['plain_seconds'] * 1e6:.0f} us"],
        ["a way to a CPU stream and back", _microseconds(figures["crossing_seconds"])],
        ["a read-back", _microseconds(figures["read_back_seconds"])],
    ]
    return table([figures["device"], ""], rows)


def _microseconds(seconds: float | None) -> str:
    return "lost in the noise" if seconds is None else f"{seconds * 1e6:.0f} us"


def _equality(figures: dict[str, Any]) -> str:
    rows = [
        [device, call, "bit-equal" if one["equal"] else f"{one['largest']:.2e} of the largest logit"]
        for device, calls in figures.items()
        for call, one in calls.items()
    ]
    return table(["device", "call", "largest difference from mlx-lm"], rows)


def _decode(figures: dict[str, Any]) -> str:
    tps = figures["tokens_per_second"]
    rows = [[name, f"{value:.1f}", f"{value / tps['mlx-lm']:.0%}"] for name, value in tps.items()]
    rows += [[name, "-", reason] for name, reason in figures["reasons"].items()]
    return table(["decode", "tok/s", "of mlx-lm resident"], rows) + _cut(figures)


def _buffers(figures: dict[str, Any]) -> str:
    rows = [["MLX's own", f"{figures['own']:.1f}"], [str(figures["value"]), f"{figures['changed']:.1f}"]]
    said = "" if figures["metal"] else "\n\nWithout Metal MLX takes no notice of it: this is the measurement's spread."
    return table(["operations a buffer", "tok/s"], rows) + _cut(figures) + said


def _cut(figures: dict[str, Any]) -> str:
    done, asked = figures["trials"], figures["asked_trials"]
    return "" if done >= asked else f"\n\n**Cut**: {done} of {asked} trials were done in the time."


def _cliff(figures: dict[str, Any]) -> str:
    rows = [[show_bytes(row["bytes"]), f"{row['rate'] / 1e9:.1f} GB/s"] for row in figures["rows"]]
    met = figures["cliff_bytes"]
    said = f"None met up to {show_bytes(figures['most_bytes'])}." if met is None else f"Met beyond {show_bytes(met)}."
    return table(["held", "gone through at"], rows) + f"\n\n{said}"


_SHOWN: dict[str, Callable[[dict[str, Any]], str]] = {
    "disk": _disk,
    "streams": _streams,
    "equality": _equality,
    "decode": _decode,
    "buffers": _buffers,
    "cliff": _cliff,
}
