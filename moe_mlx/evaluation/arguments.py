"""What `eval` and `simulate` were asked to measure: lists of caps, policies and parameters, checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from moe_mlx.errors import UsageError
from moe_mlx.evaluation.setting import (
    DEFAULT_AHEAD,
    DEFAULT_EASY,
    LEVELS,
    SWEEP_CACHES,
    SWEEP_LAMBDAS,
    SWEEP_MASSES,
    Grid,
    check_values,
    sweep_ranks,
)
from moe_mlx.expert_cache.eviction import DEFAULT_EVICTION
from moe_mlx.routing.names import BY_LAYER, DEFAULT_BEYOND, DEFAULT_DISTANCE, DEFAULT_FORM, EVALUATED, EXACT, LATE
from moe_mlx.routing.settings import DEFAULT_LAMBDA, DEFAULT_MASS
from moe_mlx.system.given import split_list

T = TypeVar("T", str, int, float)


def listed(text: str | None, option: str, kind: Callable[[str], T]) -> list[T]:
    """Returns the items of a list, none for None; errors as for `split_list`."""
    return [] if text is None else split_list(text, option, kind)


def checked_grid(args: Any) -> Grid:
    """Returns what was asked for, all of it checked but for what depends on the model.

    Raises:
        UsageError: a name or a value that cannot be taken.
    """
    lambdas = listed(args.route_lambda, "--route-lambda", float)
    masses = listed(args.route_mass, "--route-mass", float)
    ranks = listed(args.route_max_rank, "--route-max-rank", int)
    kept = listed(args.pruned, "--pruned", int)
    top_js = listed(args.route_top_j, "--route-top-j", int)
    check_values(lambdas, masses, ranks, top_js)
    routings = listed(args.routing, "--routing", str) or (EVALUATED if args.sweep else ("exact", "cache-prior"))
    thresholds = listed(getattr(args, "light_beyond", None), "--light-beyond", str)
    fitted = BY_LAYER in thresholds
    beyonds = listed(",".join(text for text in thresholds if text != BY_LAYER) or None, "--light-beyond", float)
    grid = Grid(
        caches=listed(args.expert_cache, "--expert-cache", str) or (SWEEP_CACHES if args.sweep else ("50%",)),
        routings=routings,
        evictions=listed(args.evict, "--evict", str) or (DEFAULT_EVICTION,),
        lambdas=lambdas or (SWEEP_LAMBDAS if args.sweep else (DEFAULT_LAMBDA,)),
        ranks=ranks,
        masses=masses or (SWEEP_MASSES if args.sweep else (DEFAULT_MASS,)),
        kept=kept,
        aheads=listed(getattr(args, "ahead", None), "--ahead", int) or (DEFAULT_AHEAD,),
        easies=listed(getattr(args, "easy", None), "--easy", float) or (DEFAULT_EASY,),
        top_js=top_js or (None,),
        levels=listed(getattr(args, "rounded", None), "--rounded", int) or LEVELS,
        lights=listed(getattr(args, "light", None), "--light", str) or (EXACT,),
        beyonds=beyonds or (() if fitted else (DEFAULT_BEYOND,)),
        distances=listed(getattr(args, "light_distance", None), "--light-distance", int) or (DEFAULT_DISTANCE,),
        fitted=fitted,
        qualities=listed(getattr(args, "quality", None), "--quality", str),
        forms=listed(getattr(args, "light_form", None), "--light-form", str) or (DEFAULT_FORM,),
    )
    others = [light for light in grid.lights if light not in (EXACT, LATE)]
    if fitted and (LATE not in grid.lights or (others and not beyonds)):
        wanted = f"give a number too, for {others[0]}" if LATE in grid.lights else f"give a number, or --light {LATE}"
        raise UsageError(f"--light-beyond {BY_LAYER} is of late experts alone: {wanted}")
    grid.settings(top_k=2)  # checks every name and number
    return grid


#: Every argument that asks for other settings than the one a trace was recorded with.
ASKING = (
    "expert_cache",
    "routing",
    "route_lambda",
    "route_top_j",
    "route_max_rank",
    "route_mass",
    "pruned",
    "evict",
)


def asks_for_settings(args: Any) -> bool:
    """Returns whether any setting was asked for."""
    return args.sweep or any(getattr(args, name) is not None for name in ASKING)


def fit_to_model(grid: Grid, sweep: bool, top_k: int, experts: int) -> Grid:
    """Returns the grid with the ranks of a sweep, which depend on the model."""
    if not sweep or grid.ranks:
        return grid
    return Grid(**{**{name: getattr(grid, name) for name in Grid.__slots__}, "ranks": sweep_ranks(top_k, experts)})
