"""Replays a trace under the settings of the command line and shows what each would have counted."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_mlx.budget import parse_cap, show_bytes, slots_for_share
from moe_mlx.errors import UsageError
from moe_mlx.evaluation.arguments import checked_grid, fit_to_model
from moe_mlx.evaluation.replay import Replayed, replay
from moe_mlx.evaluation.setting import Setting
from moe_mlx.evaluation.table import show_table
from moe_mlx.evaluation.trace import Trace, load_trace

if TYPE_CHECKING:
    from moe_mlx.store import ExpertLayer

_HEAD = ["cache", "routing", "evict", "miss", "read/token", "swapped", "stay", ""]
EXACT, APPROXIMATE = "exact", "approximate"


def simulate(args: argparse.Namespace) -> int:
    """Runs what `moe-mlx simulate` was asked for and prints it."""
    grid = checked_grid(args)
    trace = load_trace(args.trace)
    if args.model is not None:
        from moe_mlx.checkpoints import resolve
        from moe_mlx.store import open_source
        from moe_mlx.store.identity import identity_of

        with open_source(resolve(args.model)) as source:
            trace.check_model(identity_of(source), Path(args.model).name)
    top_k = max(layer.top_k for layer in trace.layers)
    experts = max(layer.experts for layer in trace.layers)
    settings = fit_to_model(grid, args.sweep, top_k, experts).settings(top_k)
    if args.belady and "belady" not in grid.routings:
        settings += [Setting(cache, "belady") for cache in grid.caches]
    asked = any(value is not None for value in (args.expert_cache, args.routing)) or args.sweep
    if not asked:
        settings = [Setting(**trace.setting), *(setting for setting in settings if setting.routing == "belady")]
    found = [(setting, replay(trace, setting, _slots(trace, setting, recorded=not asked))) for setting in settings]
    if args.json:
        print(json.dumps(_as_dict(trace, found), indent=1))
    else:
        print(show_table([_HEAD, *(_cells(trace, setting, counts) for setting, counts in found)]))
    return 0


def _slots(trace: Trace, setting: Setting, *, recorded: bool) -> tuple[int, ...]:
    if recorded and setting.cache == trace.setting["cache"]:
        return trace.slots
    cap = parse_cap(setting.cache)
    total = sum(layer.experts * layer.expert_nbytes for layer in trace.layers)
    share = cap.share if cap.share is not None else min(1.0, (cap.nbytes or 0) / total)
    if not share:
        raise UsageError(f"--expert-cache {setting.cache}: give a share or bytes, the model is not here to fit")
    layers: Any = trace.layers
    typed: list[ExpertLayer] = list(layers)  # has experts and top_k, which is all that is asked for
    return slots_for_share(typed, share)


def quality(trace: Trace, setting: Setting) -> str:
    """Returns whether a replay is what the runtime would count, or close to it."""
    recorded = Setting(**trace.setting)
    same = (setting.routing, setting.value, setting.top_j) == (recorded.routing, recorded.value, recorded.top_j)
    if setting.routing in ("exact", "belady"):
        return EXACT if recorded.routing == "exact" else APPROXIMATE
    return EXACT if same and (setting.cache, setting.evict) == (recorded.cache, recorded.evict) else APPROXIMATE


def _cells(trace: Trace, setting: Setting, counts: Replayed) -> list[str]:
    return [
        setting.cache, setting.describe, "-" if setting.routing == "belady" else setting.evict,
        f"{counts.miss_rate:.1%}", show_bytes(counts.bytes_per_token), f"{counts.swapped_share:.1%}",
        f"{counts.lifetime:.0f}", quality(trace, setting),
    ]  # fmt: skip


def _as_dict(trace: Trace, found: list[tuple[Setting, Replayed]]) -> dict[str, Any]:
    rows = [
        {**asdict(setting), **asdict(counts), "miss_rate": counts.miss_rate, "swapped_share": counts.swapped_share,
         "bytes_per_token": counts.bytes_per_token, "counts": quality(trace, setting)}
        for setting, counts in found
    ]  # fmt: skip
    recorded = {"setting": trace.setting, "slots": trace.slots, "counted": trace.counted}
    return {"model": trace.model, "name": trace.name, "recorded": recorded, "rows": rows}
