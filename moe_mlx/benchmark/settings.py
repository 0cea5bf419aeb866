"""What a bench sweeps: the settings of one row, and how lists on the command line become rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from moe_mlx.planning.budget import parse_cap
from moe_mlx.planning.prefetch import PREFETCHES
from moe_mlx.routing.light import LightRule
from moe_mlx.routing.names import DECODE_WAYS, DEFAULT_BEYOND, DEFAULT_DISTANCE, EXACT, LATER, LIGHTS, POLICIES
from moe_mlx.routing.settings import RoutingSettings
from moe_mlx.store.access import IOS
from moe_mlx.system.given import split_list

PAGES = ("warm", "cold", "dropped")

#: In the graph with the fetches on a CPU stream of their own, fences and all: the nearest to a GPU's cost without one.
APART = "apart"
DECODES = (*DECODE_WAYS, APART)


@dataclass(frozen=True, slots=True)
class BenchSetting:
    """One row of a bench.

    Attributes:
        expert_cache: The cap as it was written: "50%", "4GB", "auto".
        routing: A policy's name.
        route_lambda: For cache-prior; None elsewhere.
        decode: Where decode routes.
        io: How experts are read.
        pages: The page cache: "warm", "cold" (emptied of the experts before each trial), or "dropped" (after every
            token too, so that every miss comes from the disk).
        prefetch: Whether the next layer's experts are guessed and prefetched.
        light: What absent light experts do, one of `LIGHTS`.
        beyond: Share of a token's weight before a light expert.
        distance: Layers later that a late output is added.
    """

    expert_cache: str
    routing: str
    route_lambda: float | None
    decode: str
    io: str
    pages: str
    prefetch: str = "off"
    light: str = EXACT
    beyond: float = DEFAULT_BEYOND
    distance: int = DEFAULT_DISTANCE

    @property
    def light_rule(self) -> LightRule:
        """What absent light experts do."""
        return LightRule(self.light, self.beyond, self.distance)

    @property
    def policy(self) -> str:
        """The routing with its parameter and what light experts do: "cache-prior 0.1, light late beyond 0.6"."""
        routing = self.routing if self.route_lambda is None else f"{self.routing} {self.route_lambda:g}"
        return f"{routing}, {light}" if (light := self.light_rule.describe()) else routing

    @property
    def key(self) -> str:
        """The row's name, the same in every file: what `bench compare` matches by."""
        prefetch = "" if self.prefetch == "off" else f" prefetch-{self.prefetch}"  # files from before it say nothing
        return f"{self.expert_cache} {self.policy} {self.decode} {self.io} {self.pages}{prefetch}"


def sweep(
    caps: str,
    routings: str,
    lambdas: str,
    decodes: str,
    ios: str,
    pages: str,
    prefetches: str = "off",
    *,
    lights: str = EXACT,
    beyonds: str = str(DEFAULT_BEYOND),
    distances: str = str(DEFAULT_DISTANCE),
) -> list[BenchSetting]:
    """Returns every combination of the lists that differs from the others.

    Routing is not looked at where everything is resident, so caps of 100% are measured once, exactly routed; once for
    each way of light experts, which has to be as fast there.

    Raises:
        UsageError: a list with a value that cannot be taken.
    """
    strengths = split_list(lambdas, "--route-lambda", float)
    for value in strengths:
        RoutingSettings(route_lambda=value)  # refuses what is no strength
    policies = split_list(routings, "--routing", str, allowed=POLICIES)
    prefetch_ways = split_list(prefetches, "--prefetch", str, allowed=PREFETCHES)
    light_rules = list(_light_rules(lights, beyonds, distances))
    rest = list(
        itertools.product(
            split_list(decodes, "--decode", str, allowed=DECODES),
            split_list(ios, "--io", str, allowed=IOS),
            split_list(pages, "--page-cache", str, allowed=PAGES),
        )
    )
    found: dict[str, BenchSetting] = {}
    for cap in split_list(caps, "--expert-cache", str):
        everything = parse_cap(cap).share == 1.0
        for routing in ["exact"] if everything else policies:
            for strength in strengths if routing == "cache-prior" else [None]:
                ways = itertools.product(light_rules, rest, ["off"] if everything else prefetch_ways)
                for rule, (decode, io, state), prefetch in ways:
                    light = (rule.mode, rule.beyond, rule.distance)
                    setting = BenchSetting(cap, routing, strength, decode, io, state, prefetch, *light)
                    found.setdefault(setting.key, setting)
    return list(found.values())


def _light_rules(lights: str, beyonds: str, distances: str) -> Iterator[LightRule]:
    """Yields what the lists combine to, numbers with the modes that they mean something to only."""
    shares = split_list(beyonds, "--light-beyond", float)
    layers = split_list(distances, "--light-distance", int)
    for mode in split_list(lights, "--light", str, allowed=LIGHTS):
        for beyond in shares if mode != EXACT else [DEFAULT_BEYOND]:
            for distance in layers if mode in LATER else [DEFAULT_DISTANCE]:
                yield LightRule(mode, beyond, distance)
