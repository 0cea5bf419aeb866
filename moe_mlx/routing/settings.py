"""The routing a user asks for, checked once, turned into one policy per layer and a rule for light experts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moe_mlx.errors import UsageError
from moe_mlx.routing.cache_prior import CachePrior
from moe_mlx.routing.exact import Exact
from moe_mlx.routing.light import LightRule
from moe_mlx.routing.max_rank import Cumulative, MaxRank
from moe_mlx.routing.names import DEFAULT_BEYOND, DEFAULT_DISTANCE, DEFAULT_ROUTING, EXACT, LIGHTS, POLICIES
from moe_mlx.routing.policy import RoutingPolicy, check_top_j
from moe_mlx.system.given import check_choice, check_whole

#: On the demo's curve misses fall from 32.8% to 20.2% here, within exact routing's error; 0.2 gains 3.5 points.
DEFAULT_LAMBDA = 0.10
DEFAULT_MASS = 0.7


@dataclass(frozen=True, slots=True)
class RoutingSettings:
    """What to choose experts by at decode, and who is waited for. Prompts are always exact.

    Attributes:
        routing: One of `POLICIES`.
        route_lambda: Strength of Cache-Prior, in [0, 1].
        route_top_j: True top experts never displaced; None: 1 for top-2 models, 2 otherwise.
        route_max_rank: M of Max-Rank; None: twice the model's top-k.
        route_mass: p of Cumulative, in [0, 1].
        light: What absent experts of little weight do, one of `LIGHTS`.
        light_beyond: Share of a token's weight that lies before an expert of little weight, in [0, 1].
        light_distance: How many MoE layers later a late expert's output is added.
    """

    routing: str = DEFAULT_ROUTING
    route_lambda: float = DEFAULT_LAMBDA
    route_top_j: int | None = None
    route_max_rank: int | None = None
    route_mass: float = DEFAULT_MASS
    light: str = EXACT
    light_beyond: float = DEFAULT_BEYOND
    light_distance: int = DEFAULT_DISTANCE

    def __post_init__(self) -> None:
        check_choice("routing", self.routing, POLICIES)
        for name, value in (("route_lambda", self.route_lambda), ("route_mass", self.route_mass)):
            if not isinstance(value, int | float) or not math.isfinite(value) or not 0.0 <= value <= 1.0:
                raise UsageError(f"{name} is {value!r}: give a number from 0 to 1")
        check_top_j(self.route_top_j, 1)
        if self.route_max_rank is not None:
            check_whole("route_max_rank", self.route_max_rank, of="experts")
        check_choice("light", self.light, LIGHTS)
        LightRule(self.light, self.light_beyond, self.light_distance)

    @property
    def light_rule(self) -> LightRule:
        """What absent light experts do."""
        return LightRule(self.light, float(self.light_beyond), self.light_distance)

    @property
    def exact(self) -> bool:
        """Whether answers are the model's own, whatever is resident."""
        return self.routing == "exact" and self.light_rule.waits

    def policy(self, top_k: int, experts: int) -> RoutingPolicy:
        """Returns the policy for a layer of `experts` experts of which the model takes `top_k`."""
        top_j = check_top_j(self.route_top_j, top_k)
        if top_j >= top_k or top_k == 1:
            return Exact()  # nothing may be displaced: top-1 models, and J as large as k
        if self.routing == "cache-prior":
            return CachePrior(float(self.route_lambda), top_j)
        if self.routing == "max-rank":
            rank = 2 * top_k if self.route_max_rank is None else self.route_max_rank
            return MaxRank(min(rank, experts), top_j, top_k)
        if self.routing == "cumulative":
            return Cumulative(float(self.route_mass), top_j)
        return Exact()

    def describe(self) -> str:
        """Returns one short line, as the status line shows it."""
        light = self.light_rule.describe()
        return self.describe_policy() + (f", {light}" if light else "")

    def describe_policy(self) -> str:
        """Returns the same of the policy alone."""
        if self.routing == "cache-prior":
            return f"cache-prior lambda {self.route_lambda:g}"
        if self.routing == "max-rank":
            return f"max-rank {self.route_max_rank or 'auto'}"
        if self.routing == "cumulative":
            return f"cumulative {self.route_mass:g}"
        return "exact"
