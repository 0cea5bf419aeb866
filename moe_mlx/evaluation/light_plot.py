"""What settings cost as a picture: divergence against bytes and against blocking misses. Needs matplotlib.

A panel a measure and a cap. The line below everything is the Pareto front: no setting measured is better in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_mlx.evaluation.plot import INK, LOOK, STYLE
from moe_mlx.evaluation.results import Row
from moe_mlx.routing.names import DEFAULT_FORM, DROPPED, EASY, EXACT, LATE, LIGHTS, POLICIES, REFUSED
from moe_mlx.system.plots import check_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: By what light experts do: of exact routing, then of a policy. Colours of Okabe and Ito.
COLOURS = {
    EXACT: (INK, LOOK["cache-prior"][0]),
    LATE: ("#0072B2", "#009E73"),
    DROPPED: ("#999999", "#999999"),
}
_OTHER = ("#CC79A7", "#E69F00")
_STROKES = ("-", "--", ":", "-.")
#: What makes a line, and what its points are written with.
Key = tuple[str, str, float | None, int, str, int | None]
MEASURES = {
    "bytes_per_token": ("read a token, kB", 1e-3),
    "blocking": ("misses a token that a layer waits for", 1.0),
}


@dataclass(frozen=True, slots=True)
class Line:
    """Settings that differ in one parameter.

    Attributes:
        label: What they have in common.
        light: What light experts do.
        lossy: Whether a policy routes.
        rows: In the order of the parameter, from the setting that costs nothing or least.
        values: The parameter of each, "" where it has none.
    """

    label: str
    light: str
    lossy: bool
    rows: tuple[Row, ...]
    values: tuple[str, ...]


def lines(rows: Sequence[Row]) -> list[Line]:
    """Returns the lines of one cap: of exact routing over the thresholds, of a policy over its own parameter.

    Each begins at the point that it departs from: exact, or the same light experts under exact routing.
    """
    found: dict[Key, list[Row]] = {}
    for row in rows:
        if row.routing in ("belady", *REFUSED):
            continue
        beyond = row.beyond if EXACT not in (row.routing, row.light) else None
        found.setdefault((row.routing, row.light, beyond, row.distance, row.form, row.top_j), []).append(row)
    made = []
    for (routing, light, beyond, distance, form, top_j), points in found.items():
        lossy = routing != EXACT
        start = [one for one in rows if one.routing == EXACT and one.light == (light if lossy else EXACT)]
        if lossy and beyond is not None:
            start = [one for one in start if (one.beyond, one.distance, one.form) == (beyond, distance, form)]
        downwards = routing in (EXACT, "pruned", EASY)  # what costs least has the largest number
        mine = sorted(points, key=_parameter, reverse=downwards)
        values = [f"{row.value:g}" if row.value is not None else f"{row.beyond:g}" for row in mine]
        if light == EXACT and not lossy:
            values = [""] * len(mine)
        elif start:
            mine.insert(0, start[0])
            values.insert(0, "")
        label = _label(routing, light, beyond, distance, form, top_j)
        made.append(Line(label, light, lossy, tuple(mine), tuple(values)))
    return made


def _parameter(row: Row) -> float:
    return row.beyond if row.routing == EXACT else row.value or 0.0


def _label(routing: str, light: str, beyond: float | None, distance: int, form: str, top_j: int | None) -> str:
    policy = LOOK[routing][2] if routing in LOOK else routing
    policy += "" if top_j is None else f", J = {top_j}"
    if light == EXACT:
        return policy if routing in LOOK else "exact"
    over = "(beyond)" if beyond is None else f"beyond {beyond:g}"
    later = "" if distance == 1 else f", {distance} layers on"
    later += "" if form == DEFAULT_FORM else f", form {form}"
    return f"{light} {over}{later}" if routing == EXACT else f"{policy}, {light} {over}{later}"


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points that none is better than in both coordinates, from left to right."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best


def draw_light(path: Path, reference: Row, rows: Sequence[Row], title: str) -> None:
    """Draws two panels a cap; arguments and errors as for `plot.draw`."""
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    caps = list(dict.fromkeys(row.cache for row in rows))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * len(MEASURES), 1.1 + 3.9 * len(caps)), layout="constrained")
        panels = figure.subplots(len(caps), len(MEASURES), squeeze=False)
        for beside, cap in zip(panels, caps, strict=True):
            made = lines([row for row in rows if row.cache == cap])
            for panel, measure in zip(beside, MEASURES, strict=True):
                _panel(panel, made, measure)
            beside[0].set_title(f"{cap} of the experts in memory" if cap.endswith("%") else cap, loc="left")
        handles: dict[str, Any] = {}
        for panel in panels.flat:
            handles |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, columnspacing=1.6)
        figure.suptitle(
            f"{title}: what each setting costs ({reference.tokens:,} tokens scored one by one at decode)",
            fontsize=11.5,
            x=0.01,
            ha="left",
        )
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix.lower() == ".svg" else {})


def _panel(axes: Axes, made: Sequence[Line], measure: str) -> None:
    name, scale = MEASURES[measure]
    every = [row for line in made for row in line.rows]
    offered = [row for row in every if row.light in LIGHTS and row.routing in POLICIES]
    top = 1.12 * max([1e-4, *(row.kl for row in offered)])
    strokes: dict[str, int] = {}
    for line in made:
        colour, marker = _look(line)
        stroke = strokes[colour] = strokes.get(colour, -1) + 1
        xs, ys = [scale * getattr(row, measure) for row in line.rows], [row.kl for row in line.rows]
        if len(line.rows) == 1 and line.light == EXACT and not line.lossy:
            axes.plot(xs, ys, "*", color=colour, markersize=12, zorder=5, label=line.label, clip_on=False)
            continue
        style = _STROKES[stroke % len(_STROKES)]
        axes.errorbar(
            xs,
            ys,
            yerr=[row.kl_error for row in line.rows],
            fmt=style + marker,
            color=colour,
            markersize=4.2,
            linewidth=1.4,
            elinewidth=0.8,
            label=line.label,
            zorder=3 if line.lossy else 4,
        )
        if stroke == 0:
            _values(axes, line.values, xs, ys, colour, top)
    best = front([(scale * getattr(row, measure), row.kl) for row in offered])
    axes.step(
        *zip(*best, strict=True),
        where="post",
        color="#BBBBBB",
        linewidth=5,
        alpha=0.5,
        zorder=1,
        label="front of what is offered: none is better in both",
    )
    axes.set(xlabel=name, ylabel="KL(exact || setting), nats a token", ylim=(-0.04 * top, top))
    axes.set_xlim(left=0)
    axes.grid(axis="y", color="#EEEEEE", zorder=0)
    if beyond := [line.label for line in made if any(row.kl > top for row in line.rows)]:
        axes.annotate(
            f"beyond the edge: {', '.join(beyond)}",
            (0.995, 0.985),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=8,
            color="#777777",
        )


def _look(line: Line) -> tuple[str, str]:
    """Returns the colour and the marker of a line."""
    routing = line.rows[-1].routing
    if line.light == EXACT and routing in LOOK:
        return LOOK[routing][:2]
    return COLOURS.get(line.light, _OTHER)[line.lossy], "v" if line.light == DROPPED else "s"


def _values(
    axes: Axes, values: Sequence[str], xs: Sequence[float], ys: Sequence[float], colour: str, top: float
) -> None:
    for value, x, y in zip(values, xs, ys, strict=True):
        if value and y < top:
            axes.annotate(value, (x, y), (4, 4), textcoords="offset points", color=colour, fontsize=8)
