"""`--parallel auto`: which way of sharing a model among machines to take, by the plan's cost model, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_mlx.catalogue.estimate import rates_here
from moe_mlx.errors import UsageError
from moe_mlx.loading.kv_room import kv_room
from moe_mlx.loading.options import Options
from moe_mlx.loading.skeleton import Skeleton, build
from moe_mlx.machines.cost import LINKS, Machines, Outlook, outlooks
from moe_mlx.machines.launched import PIPELINE, TENSOR, WAYS
from moe_mlx.machines.part import pipelined
from moe_mlx.machines.rows import shareable
from moe_mlx.planning.shape import local_shape
from moe_mlx.store import ExpertSource
from moe_mlx.store.held_rows import in_words


def closed_ways(skeleton: Skeleton, source: ExpertSource, ranks: int) -> dict[str, str]:
    """Returns the ways that a model cannot be shared in, with the reason of each."""
    closed = {}
    try:
        pipelined(skeleton.model, skeleton.family)
    except UsageError as error:
        closed[PIPELINE] = str(error)
    if source.held_rows is not None:
        closed[PIPELINE] = f"only {in_words(source.held_rows)} are in this rank's store"
    if reason := shareable(source, ranks):
        closed[TENSOR] = reason
    elif absent := source.absent_layers():
        closed[TENSOR] = f"{absent[0]} is not in this rank's store"
    return closed


def choose(folder: Path, source: ExpertSource, options: Options, memories: Sequence[int], link: str) -> tuple[str, str]:
    """Returns the way that the cost model takes among those that this model can be shared in, and why, in one line.

    Args:
        folder: The model's.
        source: Its experts.
        options: What is asked for.
        memories: Bytes that each rank may use, by rank.
        link: Between the machines, by name of `machines.cost.LINKS`.

    Raises:
        UsageError: it can be shared in none.
    """
    more: dict[str, Any] = {"model_config": options.model_config, "trust_remote_code": options.trust_remote_code}
    skeleton = build(folder, source, **more)
    kv = kv_room(skeleton.model, skeleton.family, skeleton.config, options.kv)
    lossy = options.routing.routing == "cache-prior"
    machines = Machines(tuple(memories), LINKS[link], rates_here(), lossy, kv.nbytes)
    found = outlooks(local_shape(folder), machines, WAYS)
    return pick_way(found, closed_ways(skeleton, source, len(memories)), link)


def pick_way(found: Sequence[Outlook], closed: Mapping[str, str], link: str) -> tuple[str, str]:
    """Returns the way to take among several machines, and why.

    Args:
        found: What each way would bring, one machine alone included.
        closed: Ways that the model cannot be shared in, with reasons.
        link: Between the machines, as it is called.

    Raises:
        UsageError: all ways are closed.
    """
    open_ways = [one for one in found if one.way in WAYS and one.way not in closed]
    if not open_ways:
        raise UsageError("--parallel auto: " + "; ".join(f"{way}: {why}" for way, why in closed.items()))
    best = max(open_ways, key=lambda one: (one.tps, one.share))
    others = [_said(one, closed) for one in found if one is not best]
    if any(one.machines == 1 and one.tps > best.tps for one in found):
        others.append("one machine alone would be faster by these figures")
    return best.way, f"--parallel auto takes {_said(best, {})} by the plan's estimate over {link}; {'; '.join(others)}"


def _said(one: Outlook, closed: Mapping[str, str]) -> str:
    if one.way in closed:
        return f"not {one.way}: {closed[one.way]}"
    return f"{one.way}, {one.why_not}" if one.why_not else f"{one.way}, {one.tps:.1f} tok/s"
