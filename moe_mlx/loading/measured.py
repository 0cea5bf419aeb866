"""What evaluations of a model found of the routing in force, or that nobody has measured it yet."""

from __future__ import annotations

from moe_mlx.errors import ExpertReadError
from moe_mlx.history.verdicts import found_of, read_verdicts
from moe_mlx.loading.runtime import Runtime
from moe_mlx.store.identity import identity_of


def measured(runtime: Runtime) -> str:
    """Returns one line; "" where nothing is lost, whatever is resident."""
    if not runtime.layers.lossy:
        return ""
    routing = runtime.routing
    named = {
        "cache-prior": f"cache-prior {routing.route_lambda:g}",
        "max-rank": "max-rank" if routing.route_max_rank is None else f"max-rank {routing.route_max_rank}",
        "cumulative": f"cumulative {routing.route_mass:g}",
    }
    try:
        known = read_verdicts(identity_of(runtime.source))
    except ExpertReadError:  # the step that needs that expert says so
        known = []
    found = found_of(known, named.get(routing.routing, routing.routing), routing.light)
    return found or "never, with this model: `moe-mlx eval` does it in some ten minutes, and keeps what it finds"
