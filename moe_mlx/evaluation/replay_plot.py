"""A simulation as a picture: what each policy swaps for the misses it saves, a panel a cap. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_mlx.evaluation.plot import INK, LOOK, STYLE
from moe_mlx.evaluation.replay import Replayed
from moe_mlx.evaluation.setting import Setting
from moe_mlx.system.plots import check_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Markers of what is routed exactly, and strokes of each eviction and share, in the order met.
_STARS = "*XPdph8"
_STROKES = ("-", "--", ":", "-.")
Point = tuple[Setting, str, Replayed]


def draw_replays(path: Path, points: Sequence[Point], title: str) -> None:
    """Draws swapped share against misses: lines of policies, a mark for each exact run and for Belady.

    Args:
        path: `.svg` or `.png`.
        points: Setting, how its cap is shared, and what it counted.
        title: The model's name.

    Raises:
        UsageError: as `check_plot`.
    """
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    caps = list(dict.fromkeys(setting.cache for setting, _, _ in points))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1 + 4.6 * len(caps), 4.6), layout="constrained")
        panels = figure.subplots(1, len(caps), squeeze=False)[0]
        for panel, cap in zip(panels, caps, strict=True):
            _panel(panel, [point for point in points if point[0].cache == cap])
            panel.set_title(f"{cap} of the experts in memory" if cap.endswith("%") else cap, loc="left", weight="bold")
        handles: dict[str, Any] = {}
        for panel in panels:
            handles |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
        figure.suptitle(f"{title}: replays of a trace", fontsize=11.5, x=0.01, ha="left")
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix.lower() == ".svg" else {})


def lines(points: Sequence[Point]) -> dict[tuple[str, str, str], list[Point]]:
    """Returns the points of each policy, eviction and share; a policy's begin at its exact point, if there is one."""
    found: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        setting, share, _ = point
        evict = "" if setting.routing == "belady" else setting.evict
        found.setdefault((setting.routing, evict, share), []).append(point)
    for (routing, evict, share), mine in found.items():
        if routing in LOOK:
            mine.sort(key=lambda point: point[0].value or 0, reverse=routing == "pruned")
            mine[:0] = found.get(("exact", evict, share), [])
    return found


def _panel(axes: Axes, points: Sequence[Point]) -> None:
    several = len({share for _, share, _ in points}) > 1
    stars = iter(_STARS * len(points))
    ways = list(dict.fromkeys((setting.evict, share) for setting, share, _ in points))
    for (routing, evict, share), mine in lines(points).items():
        xs = [100 * counts.miss_rate for _, _, counts in mine]
        ys = [100 * counts.swapped_share for _, _, counts in mine]
        beside = "".join(f", {word}" for word in (evict and evict.upper(), f"{share} share" if several else "") if word)
        if routing in LOOK:
            colour, marker, label = LOOK[routing]
            style = _STROKES[ways.index((evict, share)) % len(_STROKES)]
            axes.plot(xs, ys, style, color=colour, marker=marker, markersize=4.2, linewidth=1.5, label=label + beside)
        else:
            colour = "#CC79A7" if routing == "belady" else INK
            axes.plot(
                xs,
                ys,
                next(stars),
                color=colour,
                markersize=11,
                label=f"exact, Belady{beside}" if routing == "belady" else f"exact{beside}",
                clip_on=False,
                zorder=5,
            )
    axes.set(xlabel="misses, % of chosen experts", ylabel="swapped, % of chosen experts")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#EEEEEE", zorder=0)
