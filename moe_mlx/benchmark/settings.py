"""What a bench sweeps: the settings of one row, and how lists on the command line become rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from moe_mlx.planning.budget import parse_cap
from moe_mlx.planning.prefetch import PREFETCHES
from moe_mlx.routing.names import DECODE_WAYS, POLICIES
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
    """

    expert_cache: str
    routing: str
    route_lambda: float | None
    decode: str
    io: str
    pages: str
    prefetch: str = "off"

    @property
    def key(self) -> str:
        """The row's name, the same in every file: what `bench compare` matches by."""
        routing = self.routing if self.route_lambda is None else f"{self.routing} {self.route_lambda:g}"
        prefetch = "" if self.prefetch == "off" else f" prefetch-{self.prefetch}"  # files from before it say nothing
        return f"{self.expert_cache} {routing} {self.decode} {self.io} {self.pages}{prefetch}"


def sweep(
    caps: str, routings: str, lambdas: str, decodes: str, ios: str, pages: str, prefetches: str = "off"
) -> list[BenchSetting]:
    """Returns every combination of the lists that differs from the others.

    Routing is not looked at where everything is resident, so caps of 100% are measured once, exactly routed.

    Raises:
        UsageError: a list with a value that cannot be taken.
    """
    strengths = split_list(lambdas, "--route-lambda", float)
    for value in strengths:
        RoutingSettings(route_lambda=value)  # refuses what is no strength
    policies = split_list(routings, "--routing", str, allowed=POLICIES)
    prefetch_ways = split_list(prefetches, "--prefetch", str, allowed=PREFETCHES)
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
                for (decode, io, state), prefetch in itertools.product(rest, ["off"] if everything else prefetch_ways):
                    setting = BenchSetting(cap, routing, strength, decode, io, state, prefetch)
                    found.setdefault(setting.key, setting)
    return list(found.values())
