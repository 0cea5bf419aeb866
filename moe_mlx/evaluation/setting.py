"""One point of an evaluation: a cap, an eviction, a routing policy and its parameter; and lists of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from moe_mlx.errors import UsageError
from moe_mlx.evaluation.ahead import RouteAhead
from moe_mlx.evaluation.contenders import make_any
from moe_mlx.evaluation.pruned import Pruned
from moe_mlx.evaluation.unwaited import Unwaited
from moe_mlx.expert_cache.eviction import DEFAULT_EVICTION
from moe_mlx.routing.light import LightRule
from moe_mlx.routing.names import (
    AHEAD,
    COARSES,
    DEFAULT_BEYOND,
    DEFAULT_DISTANCE,
    DEFAULT_FORM,
    EASY,
    EVALUATED_LIGHTS,
    EXACT,
    LATE,
    LATER,
    LIGHT_FORMS,
    ROUNDED,
    SCORED,
    UNWAITED,
)
from moe_mlx.routing.policy import RoutingPolicy, check_top_j
from moe_mlx.routing.price import read_quality
from moe_mlx.routing.settings import DEFAULT_LAMBDA, DEFAULT_MASS, RoutingSettings
from moe_mlx.system.given import check_choice, is_whole

#: What can be evaluated: what can be run, a baseline, and the offline optimum (a replay of the exact run).
SWEEP_LAMBDAS = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
SWEEP_MASSES = (0.4, 0.55, 0.7, 0.8, 0.87, 0.93, 0.97, 1.0)
#: Those that have a J.
GUARDED = ("cache-prior", "max-rank", "cumulative", AHEAD)
#: Layers ahead, and how sure of a token the model must be for half of its experts.
DEFAULT_AHEAD, DEFAULT_EASY = 1, 0.9
#: A slot for every expert.
WHOLE = "100%"
#: Of weights that are rounded: three (ternary), or as many as two or three bits have.
LEVELS = (3, 4, 8)
SWEEP_CACHES = ("25%", "50%", "75%")
_SWEEP_RANKS = 8


@dataclass(frozen=True, slots=True)
class Setting:
    """One point to measure.

    Attributes:
        cache: The cap, as `--expert-cache` takes it.
        routing: One of `SCORED`.
        value: lambda, M, p, k', levels, layers ahead or how sure, by policy; None where the policy has no parameter,
            or M is the policy's own.
        top_j: J; None for the model's default.
        evict: The runtime's or, in a replay, a contender's name; under "belady" of no effect.
        light: What absent light experts do, one of `EVALUATED_LIGHTS`.
        beyond: Share of a token's weight before a light expert.
        distance: Layers later that a late output is added.
        fitted: Whether each layer has the threshold of a fit that lets as many be late as `beyond` does.
        quality: What is held by moving the routing, as `--quality` takes it; "" where the routing stays.
        form: What of an expert a coarse one is; of effect where experts may be coarse.
    """

    cache: str
    routing: str = "exact"
    value: float | None = None
    top_j: int | None = None
    evict: str = DEFAULT_EVICTION
    light: str = EXACT
    beyond: float = DEFAULT_BEYOND
    distance: int = DEFAULT_DISTANCE
    fitted: bool = False
    quality: str = ""
    form: str = DEFAULT_FORM

    def __post_init__(self) -> None:
        check_choice("light", self.light, EVALUATED_LIGHTS)
        check_choice("light_form", self.form, LIGHT_FORMS)
        if self.routing not in SCORED:
            raise UsageError(f"unknown routing {self.routing!r}: choose among {', '.join(SCORED)}")
        if self.routing == ROUNDED and self.value not in LEVELS:
            raise UsageError(f"rounded to {self.value!r} levels: choose among {', '.join(map(str, LEVELS))}")
        if self.routing == "pruned" and not is_whole(self.value):
            raise UsageError(f"pruned to {self.value!r} experts: give a whole number, 1 or more")
        if self.routing == AHEAD and not is_whole(self.value):
            raise UsageError(f"routed {self.value!r} layers ahead: give a whole number, 1 or more")
        if self.routing == EASY and not (self.value is not None and 0 <= self.value <= 1):
            raise UsageError(f"easy tokens at {self.value!r}: give a probability from 0 to 1")
        make_any(self.evict)
        self.settings()
        if self.quality:
            read_quality(self.quality)
        LightRule(self.light, self.beyond, self.distance)

    @property
    def light_rule(self) -> LightRule:
        """What absent light experts do."""
        return LightRule(self.light, self.beyond, self.distance)

    def settings(self) -> RoutingSettings:
        """Returns the runtime's settings; exact where the policy is none of the runtime's.

        Raises:
            UsageError: a value out of its range.
        """
        if self.routing == "cache-prior":
            return RoutingSettings("cache-prior", self._value(DEFAULT_LAMBDA), self.top_j)
        if self.routing == "max-rank":
            rank = None if self.value is None else int(self.value)
            return RoutingSettings("max-rank", route_top_j=self.top_j, route_max_rank=rank)
        if self.routing == "cumulative":
            return RoutingSettings("cumulative", route_top_j=self.top_j, route_mass=self._value(DEFAULT_MASS))
        return RoutingSettings("exact", route_top_j=self.top_j)

    def _value(self, default: float) -> float:
        return default if self.value is None else self.value

    def policy(self, top_k: int, experts: int) -> RoutingPolicy:
        """Returns the policy of a layer of `experts` experts of which the model takes `top_k`."""
        if self.routing == "pruned":
            assert self.value is not None
            return Pruned(min(int(self.value), top_k), top_k)
        if self.routing == AHEAD:
            return RouteAhead(check_top_j(self.top_j, top_k))
        if self.routing == UNWAITED:
            return Unwaited()
        return self.settings().policy(top_k, experts)

    @property
    def describe(self) -> str:
        """The policy with its parameter, its J and what light experts do, without the cap: "cache-prior 0.1, J 1"."""
        if self.quality:
            return f"held at {self.quality}"
        policy = self.routing if self.value is None else f"{self.routing} {self.value:g}"
        policy += "" if self.top_j is None else f", J {self.top_j}"
        form = f", form {self.form}" if self.light_rule.coarse and self.form != DEFAULT_FORM else ""
        light = self.light_rule.describe() + (" by layer" if self.fitted else "") + form
        return f"{policy}, {light}" if light else policy

    @property
    def key(self) -> str:
        """Names this setting in a results file."""
        return f"{self.cache} {self.evict} {self.describe}"


@dataclass(frozen=True, slots=True)
class Grid:
    """Lists of values whose combinations are evaluated; a parameter is combined with its own policy only.

    Attributes:
        caches: Caps.
        routings: Names out of `SCORED`.
        evictions: Names of evictions; the sweep draws its curves with the first.
        lambdas: Of Cache-Prior.
        ranks: M of Max-Rank; empty: twice top-k, in a sweep from k to E.
        masses: p of Cumulative.
        kept: k' of Pruned; empty: every k' from 1 to k - 1.
        aheads: Layers ahead that experts are chosen.
        easies: How sure of a token the model must be for half of its experts.
        top_js: J, for the policies that have one; None for the model's default.
        levels: Of Rounded, which has every expert in memory, whatever the caps.
        lights: What absent light experts do; other than "exact" with every policy that runs.
        beyonds: Shares of a token's weight before a light expert.
        distances: Layers later that late outputs are added.
        fitted: Whether the thresholds of a fit are evaluated too.
        qualities: What is held by moving the routing.
        forms: What of an expert a coarse one is; with every light that may be coarse.
    """

    caches: Sequence[str] = ("50%",)
    routings: Sequence[str] = ("exact", "cache-prior")
    evictions: Sequence[str] = (DEFAULT_EVICTION,)
    lambdas: Sequence[float] = (DEFAULT_LAMBDA,)
    ranks: Sequence[int] = ()
    masses: Sequence[float] = (DEFAULT_MASS,)
    kept: Sequence[int] = ()
    aheads: Sequence[int] = (DEFAULT_AHEAD,)
    easies: Sequence[float] = (DEFAULT_EASY,)
    top_js: Sequence[int | None] = (None,)
    levels: Sequence[int] = LEVELS
    lights: Sequence[str] = (EXACT,)
    beyonds: Sequence[float] = (DEFAULT_BEYOND,)
    distances: Sequence[int] = (DEFAULT_DISTANCE,)
    fitted: bool = False
    qualities: Sequence[str] = ()
    forms: Sequence[str] = (DEFAULT_FORM,)

    def settings(self, top_k: int) -> list[Setting]:
        """Returns every setting once, cap by cap, in the order asked for.

        Args:
            top_k: The model's top-k.

        Raises:
            UsageError: a name or a value that cannot be taken.
        """
        found: dict[str, Setting] = {}
        for cache in self.caches:
            for routing in (routing for routing in self.routings if routing != ROUNDED):
                evictions = self.evictions[:1] if routing == "belady" else self.evictions
                top_js = self.top_js if routing in GUARDED else (None,)
                for value, top_j, evict in product(self._values(routing, top_k), top_js, evictions):
                    for setting in self._lit(Setting(cache, routing, value, top_j, evict)):
                        found.setdefault(setting.key, setting)
            for quality, evict in product(self.qualities, self.evictions):
                setting = Setting(cache, evict=evict, quality=quality)
                found.setdefault(setting.key, setting)
        for levels in self.levels if ROUNDED in self.routings else ():
            setting = Setting(WHOLE, ROUNDED, levels)
            found.setdefault(setting.key, setting)
        return list(found.values())

    def _lit(self, plain: Setting) -> Iterator[Setting]:
        """Yields a setting with everything that its light experts may do."""
        for light in (EXACT,) if plain.routing in ("belady", "pruned", AHEAD, EASY, UNWAITED) else self.lights:
            beyonds = (DEFAULT_BEYOND,) if light == EXACT else self.beyonds
            distances = self.distances if light in LATER else (DEFAULT_DISTANCE,)
            forms = self.forms if light in COARSES else (DEFAULT_FORM,)
            for beyond, distance, form in product(beyonds, distances, forms):
                yield replace(plain, light=light, beyond=beyond, distance=distance, form=form)
            if self.fitted and light == LATE:
                yield replace(plain, light=light, fitted=True)

    def _values(self, routing: str, top_k: int) -> Iterator[float | None]:
        if routing == "cache-prior":
            yield from self.lambdas
        elif routing == "max-rank":
            yield from self.ranks or (None,)
        elif routing == "cumulative":
            yield from self.masses
        elif routing == "pruned":
            yield from self.kept or range(1, top_k)
        elif routing == AHEAD:
            yield from self.aheads
        elif routing == EASY:
            yield from self.easies
        else:
            yield None


def sweep_ranks(top_k: int, experts: int) -> list[int]:
    """Returns M from k + 1 to E, denser at the small end; M = k is exact routing."""
    steps = range(1, _SWEEP_RANKS + 1)
    return sorted({max(top_k + 1, round(top_k * (experts / top_k) ** (step / _SWEEP_RANKS))) for step in steps})


def check_values(
    lambdas: Sequence[float], masses: Sequence[float], ranks: Sequence[int], top_js: Sequence[int | None]
) -> None:
    """Checks parameters before any model is loaded, whether or not a chosen policy uses them.

    Raises:
        UsageError: names the value.
    """
    for value in lambdas:
        RoutingSettings("cache-prior", value)
    for value in masses:
        RoutingSettings("cumulative", route_mass=value)
    for rank in ranks:
        RoutingSettings("max-rank", route_max_rank=rank)
    for top_j in top_js:
        RoutingSettings("exact", route_top_j=top_j)
