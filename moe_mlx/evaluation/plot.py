"""The trade-off as a picture: perplexity, divergence and accuracy against miss rate. Needs matplotlib (extra `plot`).

Divergence is there because it is the quietest measure: a thousand tokens tell policies apart that perplexity cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_mlx.evaluation.results import Row
from moe_mlx.evaluation.setting import GUARDED
from moe_mlx.routing.names import AHEAD, EASY
from moe_mlx.system.plots import check_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours of Okabe and Ito, told apart by colour-blind eyes too; a marker each, for print.
LOOK = {
    "cache-prior": ("#D55E00", "o", "Cache-Prior (λ)"),
    "max-rank": ("#0072B2", "s", "Max-Rank (M)"),
    "cumulative": ("#009E73", "D", "Cumulative (p)"),
    "pruned": ("#999999", "v", "Pruned (k')"),
    AHEAD: ("#56B4E9", "X", "Route ahead (layers)"),
    EASY: ("#8C6D31", "^", "Fewer for easy tokens (p)"),
}
_WRITTEN = (0.04, 0.1, 0.2, 0.3)
INK = "#222222"
#: The perplexity panel ends at a change between these two, by what it shows; what is beyond is told in the panel.
_LEAST_TOP, _MOST_TOP = 0.045, 0.16
STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "svg.hashsalt": "moe-mlx",
    "savefig.facecolor": "white",
    "figure.facecolor": "white",
}


def draw(path: Path, reference: Row, rows: Sequence[Row], title: str) -> None:
    """Draws a row of panels for each cap: perplexity, divergence, and accuracy where tasks were asked.

    Args:
        path: `.svg` or `.png`.
        reference: The fully resident exact run.
        rows: Every other setting.
        title: The model's name.

    Raises:
        UsageError: as `check_plot`.
    """
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    caps = list(dict.fromkeys(row.cache for row in rows))
    columns = 3 if any(row.accuracy is not None for row in rows) else 2
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.9 * columns, 0.9 + 3.7 * len(caps)), layout="constrained")
        panels = figure.subplots(len(caps), columns, squeeze=False)
        for line, cap in enumerate(caps):
            mine = [row for row in rows if row.cache == cap]
            perplexity(panels[line][0], reference, mine)
            panels[line][0].set_title(f"{cap} of the experts in memory", loc="left", weight="bold")
            divergence(panels[line][1], mine)
            if columns == 3:
                accuracy(panels[line][2], reference, mine)
        handles: dict[str, Any] = {}
        for panel in panels.flat:
            handles |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=7 if columns == 3 else 4,
            columnspacing=1.6,
        )
        tokens = f"{reference.tokens:,} tokens scored one by one at decode"
        tasks = f", {reference.tasks:,} tasks" if reference.tasks else ""
        if top_j := shared_top_j(rows):
            tasks += f", {top_j}"
        figure.suptitle(f"{title}: quality against misses ({tokens}{tasks})", fontsize=11.5, x=0.01, ha="left")
        metadata: dict[str, Any] = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(path, dpi=160, metadata=metadata)


def curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each policy and eviction as lines, each beginning at its exact (LRU) point."""
    lines: dict[str, list[Row]] = {}
    for evict in dict.fromkeys(row.evict for row in rows):
        start = [row for row in rows if row.routing == "exact" and row.evict == evict]
        for policy, (_, _, label) in LOOK.items():
            every = [row for row in rows if row.routing == policy and row.evict == evict]
            for top_j in dict.fromkeys(row.top_j for row in every):
                mine = [row for row in every if row.top_j == top_j]
                mine.sort(key=lambda row: (row.value is None, row.value or 0), reverse=policy in ("pruned", EASY))
                suffix = "" if top_j is None or shared_top_j(rows) else f", J = {top_j}"
                suffix += "" if evict == "lru" else f", {evict.upper()}"
                lines[label + suffix] = [*start, *mine]
    return lines


def shared_top_j(rows: Sequence[Row]) -> str:
    """Returns the J of all policies that have one, as a title says it; "" where there are several, or the model's."""
    found = {row.top_j for row in rows if row.routing in GUARDED}
    return f"J = {found.pop()}" if len(found) == 1 and None not in found else ""


def _lines(axes: Axes, rows: Sequence[Row], x: str, y: str, top: float | None) -> None:
    looks = {label: (colour, marker) for colour, marker, label in LOOK.values()}
    for label, points in curves(rows).items():
        colour, marker = looks[label.partition(",")[0]]
        shown = [row for row in points if getattr(row, x) is not None and getattr(row, y) is not None]
        xs, ys = [100 * getattr(row, x) for row in shown], [getattr(row, y) for row in shown]
        style = "--" if "," in label else "-"
        axes.plot(xs, ys, style, color=colour, marker=marker, markersize=4.2, linewidth=1.5, label=label, zorder=3)
        if top is not None and label.startswith("Cache-Prior"):
            _values(axes, shown, xs, ys, colour, top)


def _values(axes: Axes, rows: Sequence[Row], xs: list[float], ys: list[float], colour: str, top: float) -> None:
    """Writes some values of the parameter below their points, none on top of another."""
    last = float("inf")
    for row, x, y in zip(rows, xs, ys, strict=True):
        if row.value in _WRITTEN and y < top and last - x > 0.045 * max(xs):
            last = x
            axes.annotate(
                f"{row.value:g}", (x, y), (0, -12), textcoords="offset points", ha="center", color=colour, fontsize=8
            )


def _marks(axes: Axes, rows: Sequence[Row], x: str, y: str) -> None:
    """The LRU (or LFU) point, and half its misses."""
    for row in rows:
        if row.routing == "exact" and getattr(row, x) is not None and getattr(row, y) is not None:
            place = 100 * getattr(row, x)
            axes.axvline(place / 2, color="#BBBBBB", linewidth=1, linestyle=":", zorder=1)
            axes.annotate(
                f"half of {row.evict.upper()}",
                (place / 2, 0.015),
                (-3, 0),
                ha="right",
                color="#888888",
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                fontsize=8,
            )
            axes.plot(
                [place],
                [getattr(row, y)],
                "*",
                color=INK,
                markersize=12,
                zorder=5,
                label=f"exact, {row.evict.upper()}",
            )


def _optimum(axes: Axes, rows: Sequence[Row], y: str) -> None:
    """The Belady point."""
    for row in rows:
        if row.routing == "belady":
            axes.plot(
                [100 * row.miss_rate],
                [getattr(row, y)],
                "P",
                color="#CC79A7",
                markersize=10,
                zorder=5,
                markeredgecolor=INK,
                markeredgewidth=0.6,
                label="exact, Belady",
            )


def _beyond(axes: Axes, rows: Sequence[Row], height: float) -> None:
    """Tells what lies outside a panel."""
    if rows:
        names = ", ".join(f"{row.setting.describe}" for row in rows[:4]) + (", ..." if len(rows) > 4 else "")
        axes.annotate(
            f"beyond the edge: {names}",
            (0.995, height),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=8,
            color="#777777",
        )


def perplexity(axes: Axes, reference: Row, rows: Sequence[Row]) -> None:
    """Draws one cap's perplexity panel, the change in percent at its right edge."""
    base = reference.ppl
    changes = [row.ppl_change for row in rows if row.routing != "pruned"]
    top = base * (1 + min(max([_LEAST_TOP, *(1.15 * change for change in changes)]), _MOST_TOP))
    axes.axhline(base, color=INK, linewidth=1, linestyle="--", zorder=1, label="all experts in memory")
    axes.axhspan(base, base * 1.03, color="#F3EFE6", zorder=0, linewidth=0)
    axes.annotate(
        "up to +3%",
        (0.995, base * 1.028),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="top",
        fontsize=8,
        color="#9A8F78",
    )
    _lines(axes, rows, "miss_rate", "ppl", top)
    _marks(axes, rows, "miss_rate", "ppl")
    _optimum(axes, rows, "ppl")
    _beyond(axes, [row for row in rows if row.ppl > top], 0.985)
    least = min([base, *(row.ppl for row in rows)])
    axes.set(xlabel="misses, % of chosen experts", ylabel="perplexity", ylim=(least - 0.1 * (top - base), top))
    axes.set_xlim(left=0)
    change = axes.secondary_yaxis("right", functions=(lambda y: 100 * (y / base - 1), lambda c: base * (1 + c / 100)))
    change.set_ylabel("change, %")
    change.spines["right"].set_visible(False)
    axes.grid(axis="y", color="#EEEEEE", zorder=0)


def divergence(axes: Axes, rows: Sequence[Row]) -> None:
    """Draws one cap's divergence panel."""
    most = max([0.002, *(row.kl for row in rows if row.routing != "pruned")])
    axes.axhline(0, color=INK, linewidth=1, linestyle="--", zorder=1)
    _lines(axes, rows, "miss_rate", "kl", 1.15 * most)
    _marks(axes, rows, "miss_rate", "kl")
    _optimum(axes, rows, "kl")
    axes.set(xlabel="misses, % of chosen experts", ylabel="KL(exact || policy), nats a token")
    axes.set_ylim(-0.06 * most, 1.15 * most)
    axes.set_xlim(left=0)
    _beyond(axes, [row for row in rows if row.kl > 1.15 * most], 0.985)
    axes.grid(axis="y", color="#EEEEEE", zorder=0)


def accuracy(axes: Axes, reference: Row, rows: Sequence[Row]) -> None:
    """Draws one cap's accuracy panel, against the misses made while answering."""
    if reference.accuracy is not None:
        axes.axhline(reference.accuracy, color=INK, linewidth=1, linestyle="--", zorder=1)
    _lines(axes, rows, "task_miss_rate", "accuracy", None)
    _marks(axes, rows, "task_miss_rate", "accuracy")
    axes.set(xlabel="misses while answering, % of chosen experts", ylabel="tasks answered exactly")
    axes.set_xlim(left=0)
    shown = [row.accuracy for row in rows if row.accuracy is not None and row.routing != "pruned"]
    least, best = min([reference.accuracy or 0.0, *shown]), max([reference.accuracy or 0.0, *shown])
    bottom = max(0.0, 0.75 * least)
    axes.set_ylim(bottom, min(1.03, best + 0.12 * (best - bottom) + 0.02))
    _beyond(axes, [row for row in rows if row.accuracy is not None and row.accuracy < bottom], 0.06)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="y", color="#EEEEEE", zorder=0)
