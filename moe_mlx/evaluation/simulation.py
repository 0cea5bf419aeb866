"""Replays a trace under the settings of the command line and shows what each would have counted."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.evaluation.arguments import asks_for_settings, checked_grid, fit_to_model
from moe_mlx.evaluation.replay import Replayed, distances_of, replay
from moe_mlx.evaluation.setting import Setting
from moe_mlx.evaluation.trace import Trace, load_trace
from moe_mlx.planning.budget import parse_cap, slots_for_bytes, slots_for_share
from moe_mlx.planning.slot_share import Curve, curve_of, measured_slots
from moe_mlx.routing.names import EVALUATED
from moe_mlx.system.given import check_choice
from moe_mlx.system.plots import check_plot
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.table import render

_HEAD = ["cache", "share", "routing", "evict", "miss", "read/token", "swapped", "stay", ""]
Row = tuple[Setting, str, Replayed]
EXACT, APPROXIMATE = "exact", "approximate"


def simulate(args: argparse.Namespace) -> int:
    """Runs what `moe-mlx simulate` was asked for and prints it."""
    grid = checked_grid(args)
    for routing in grid.routings:
        check_choice("routing", routing, EVALUATED)  # scoring alone tells what others do: they change later inputs
    if args.plot is not None:
        check_plot(args.plot)
    trace = load_trace(args.trace)
    if args.model is not None:
        from moe_mlx.store import open_source
        from moe_mlx.store.identity import identity_of
        from moe_mlx.store.resolve import resolve

        with open_source(resolve(args.model)) as source:
            trace.check_model(identity_of(source), Path(args.model).name)
    top_k = max(layer.top_k for layer in trace.layers)
    experts = max(layer.experts for layer in trace.layers)
    settings = fit_to_model(grid, args.sweep, top_k, experts).settings(top_k)
    if args.belady and "belady" not in grid.routings:
        settings += [Setting(cache, "belady") for cache in grid.caches]
    asked = asks_for_settings(args)
    if not asked:
        settings = [Setting(**trace.setting), *(setting for setting in settings if setting.routing == "belady")]
    curves = _curves(trace, args.share_by)
    found: list[Row] = []
    for setting in settings:
        even = _slots(trace, setting, recorded=not asked)
        found.append((setting, "even", replay(trace, setting, even)))
        if curves is not None:
            found.append((setting, "measured", replay(trace, setting, measured_slots(trace.sized, curves, even))))
    if args.plot is not None:
        from moe_mlx.evaluation.replay_plot import draw_replays

        draw_replays(args.plot, found, title=trace.name)
    if args.json:
        print(json.dumps(_as_dict(trace, found), indent=1))
    else:
        print(render(_HEAD, [_cells(trace, *row) for row in found], left=2))
    return 0


def _curves(trace: Trace, other: Path | None) -> list[Curve] | None:
    if other is None:
        return None
    source = load_trace(other)
    source.check_model(trace.model, trace.name)
    return [curve_of(distances_of(layer), layer.top_k) for layer in source.layers]


def _slots(trace: Trace, setting: Setting, *, recorded: bool) -> tuple[int, ...]:
    if recorded and setting.cache == trace.setting["cache"]:
        return trace.slots
    cap = parse_cap(setting.cache)
    if cap.share:
        return slots_for_share(trace.sized, cap.share)
    if cap.nbytes:
        return slots_for_bytes(trace.sized, cap.nbytes)
    raise UsageError(f"--expert-cache {setting.cache}: give a share or bytes, the model is not here to fit")


def quality(trace: Trace, setting: Setting) -> str:
    """Returns whether a replay is what the runtime would count, or close to it."""
    recorded = Setting(**trace.setting)
    same = (setting.routing, setting.value, setting.top_j) == (recorded.routing, recorded.value, recorded.top_j)
    if setting.routing in ("exact", "belady"):
        return EXACT if recorded.routing == "exact" else APPROXIMATE
    return EXACT if same and (setting.cache, setting.evict) == (recorded.cache, recorded.evict) else APPROXIMATE


def _cells(trace: Trace, setting: Setting, share: str, counts: Replayed) -> list[str]:
    return [
        setting.cache,
        share,
        setting.describe,
        "-" if setting.routing == "belady" else setting.evict,
        f"{counts.miss_rate:.1%}",
        show_bytes(counts.bytes_per_token),
        f"{counts.swapped_share:.1%}",
        f"{counts.lifetime:.0f}",
        quality(trace, setting),
    ]


def _as_dict(trace: Trace, found: list[Row]) -> dict[str, Any]:
    rows = [
        {
            **asdict(setting),
            "share": share,
            **asdict(counts),
            "miss_rate": counts.miss_rate,
            "swapped_share": counts.swapped_share,
            "bytes_per_token": counts.bytes_per_token,
            "counts": quality(trace, setting),
        }
        for setting, share, counts in found
    ]
    recorded = {"setting": trace.setting, "slots": trace.slots, "counted": trace.counted}
    return {"model": trace.model, "name": trace.name, "recorded": recorded, "rows": rows}
