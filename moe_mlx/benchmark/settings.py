"""What a bench sweeps: the settings of one row, and how lists on the command line become rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_mlx.errors import UsageError
from moe_mlx.planning.budget import parse_cap
from moe_mlx.planning.prefetch import PREFETCHES
from moe_mlx.routing.names import POLICIES
from moe_mlx.routing.settings import RoutingSettings
from moe_mlx.store.access import IOS

DECODES = ("auto", "native", "readback")
PAGES = ("warm", "cold", "dropped")


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
        prefetch: Whether the next layer's experts are read ahead.
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
        ahead = "" if self.prefetch == "off" else f" prefetch-{self.prefetch}"  # files from before it say nothing
        return f"{self.expert_cache} {routing} {self.decode} {self.io} {self.pages}{ahead}"


def split(text: str, what: str, allowed: Sequence[str] | None = None) -> list[str]:
    """Returns the words of a comma-separated list.

    Raises:
        UsageError: an empty list, or a word that is not allowed.
    """
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise UsageError(f"{what} is empty: give values separated by commas")
    for word in words:
        if allowed is not None and word not in allowed:
            raise UsageError(f"{what}: {word!r} is none of {', '.join(allowed)}")
    return words


def sweep(
    caps: str, routings: str, lambdas: str, decodes: str, ios: str, pages: str, prefetches: str = "off"
) -> list[BenchSetting]:
    """Returns every combination of the lists that differs from the others.

    Routing is not looked at where everything is resident, so caps of 100% are measured once, exactly routed.

    Raises:
        UsageError: a list with a value that cannot be taken.
    """
    strengths = []
    for word in split(lambdas, "--route-lambda"):
        try:
            strengths.append(RoutingSettings(route_lambda=float(word)).route_lambda)
        except ValueError:
            raise UsageError(f"--route-lambda: {word!r} is no number from 0 to 1") from None
    found: dict[str, BenchSetting] = {}
    for cap in split(caps, "--expert-cache"):
        everything = parse_cap(cap).share == 1.0
        for routing in ["exact"] if everything else split(routings, "--routing", POLICIES):
            for strength in strengths if routing == "cache-prior" else [None]:
                for decode in split(decodes, "--decode", DECODES):
                    for io in split(ios, "--io", IOS):
                        for state in split(pages, "--page-cache", PAGES):
                            for ahead in ["off"] if everything else split(prefetches, "--prefetch", PREFETCHES):
                                setting = BenchSetting(cap, routing, strength, decode, io, state, ahead)
                                found.setdefault(setting.key, setting)
    return list(found.values())
