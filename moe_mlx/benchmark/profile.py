"""Where Python spends a decode step: the standard profiler over one trial, per token and layer."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moe_mlx.system.table import render

_ROWS = 18


def profiled(call: Callable[[], Any], steps: int, layers: int) -> str:
    """Runs `call` under the profiler and returns its most expensive functions.

    Times include the profiler's own, about a microsecond a call: compare them with each other, not with a clock.

    Args:
        call: What to run.
        steps: Model calls that it makes.
        layers: MoE layers of the model.
    """
    profiler = cProfile.Profile()
    profiler.runcall(call)
    table: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    entries = sorted(table.items(), key=lambda item: -item[1][2])[:_ROWS]
    scale = 1e6 / (steps * layers)
    cells = [
        [_name(*where), f"{calls / (steps * layers):.2f}", f"{own * scale:.1f}", f"{below * scale:.1f}"]
        for where, (calls, _, own, below, _) in entries
    ]
    return render(["function", "calls", "us inside", "us in all"], cells)


def _name(file: str, line: int, function: str) -> str:
    return function if file == "~" else f"{Path(file).name}:{line} {function}"
