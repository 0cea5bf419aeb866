"""Heat maps of `inspect --experts`: use of experts, pairs in a layer, affinity to the next. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moe_mlx.evaluation.affinity import LayerUse
from moe_mlx.evaluation.expert_use import ExpertUse
from moe_mlx.system.plots import check_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Layers whose pairs and affinity are drawn: the first, the last that has a next one, and what lies evenly between.
_DRAWN = 4
#: Beyond this many times as often as by chance the colour no longer changes.
_MOST_LIFT = 4.0


def draw_use(path: Path, use: ExpertUse) -> None:
    """Draws the maps into `.svg` or `.png`.

    Raises:
        UsageError: as `check_plot`.
    """
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn = _spread(len(use.layers) - 1 if use.layers[0].together is not None else 0)
    with mpl.rc_context({"svg.hashsalt": "moe-mlx", "font.size": 9, "axes.titlesize": 10}):
        height = 1.4 + 0.12 * len(use.layers) + (5.4 if drawn else 0)
        figure = Figure(figsize=(12, height), layout="constrained")
        ratios = [1, 2, 2] if drawn else [1]
        grid = figure.add_gridspec(len(ratios), max(1, len(drawn)), height_ratios=ratios)
        top = figure.add_subplot(grid[0, :])
        shares, heads = _shares(use.layers), "share of tokens that use the expert"
        image = top.imshow(shares, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
        top.set_title(f"{use.name}: {heads}, from a {use.origin}", loc="left")
        top.set(xlabel="expert", ylabel="layer")
        top.set_yticks(range(0, len(use.layers), max(1, len(use.layers) // 12)))
        top.set_yticklabels([str(use.numbers[place]) for place in top.get_yticks()])
        figure.colorbar(image, ax=top, pad=0.01)
        for column, place in enumerate(drawn):
            layer, following = use.layers[place], use.layers[place + 1]
            assert layer.together is not None and layer.onward is not None
            pairs = layer.together.astype(float)
            np.fill_diagonal(pairs, np.nan)
            _lift(figure.add_subplot(grid[1, column]), pairs, layer, layer, f"layer {use.numbers[place]}, pairs")
            title = f"layer {use.numbers[place]} to {use.numbers[place + 1]}"
            last = _lift(figure.add_subplot(grid[2, column]), layer.onward.astype(float), layer, following, title)
        if drawn:
            bar = figure.colorbar(last, ax=figure.axes[-2 * len(drawn) :], pad=0.01, shrink=0.6)
            bar.set_label("times as often as by chance")
        metadata: dict[str, Any] = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(path, dpi=130, metadata=metadata)


def _spread(count: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, count - 1, min(_DRAWN, count))}) if count > 0 else []


def _shares(layers: tuple[LayerUse, ...]) -> NDArray[np.float64]:
    """`[L, E]`; where layers differ in E, the rest is empty."""
    shares = np.full((len(layers), max(len(layer.uses) for layer in layers)), np.nan)
    for row, layer in zip(shares, layers, strict=True):
        row[: len(layer.uses)] = layer.uses / max(layer.tokens, 1e-9)
    return shares


def _lift(axes: Axes, both: NDArray[np.float64], rows: LayerUse, columns: LayerUse, title: str) -> Any:
    from matplotlib.colors import TwoSlopeNorm

    chance = np.outer(rows.uses, columns.uses) / max(rows.tokens, 1e-9)
    lift = np.divide(both, chance, out=np.full(both.shape, np.nan), where=chance > 0)
    scale = TwoSlopeNorm(vcenter=1, vmin=0, vmax=_MOST_LIFT)
    image = axes.imshow(lift, cmap="RdBu_r", norm=scale, interpolation="nearest")
    axes.set_title(title, loc="left")
    axes.set(xticks=[], yticks=[])
    return image
