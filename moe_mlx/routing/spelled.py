"""A routing as people write it: "exact", "lambda 0.2", "max-rank 9", "cumulative 0.93"."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.routing.names import POLICIES
from moe_mlx.routing.settings import RoutingSettings

#: The setting that a policy's number stands for, and how it is read.
_NUMBERS = {
    "cache-prior": ("route_lambda", float),
    "max-rank": ("route_max_rank", int),
    "cumulative": ("route_mass", float),
}


def spelled(text: str, base: RoutingSettings) -> RoutingSettings:
    """Returns the routing that a text names; what it leaves open is as in `base`.

    Raises:
        UsageError: no routing is called so, or its number makes no sense.
    """
    words = text.lower().split()
    if words[:1] == ["lambda"]:
        words.insert(0, "cache-prior")
    words = [word for word in words if word not in ("lambda", "auto")]
    if not words or words[0] not in POLICIES or len(words) > 2 or (len(words) == 2 and words[0] not in _NUMBERS):
        raise UsageError(f"routing {text!r}: give one of {', '.join(POLICIES)}, with its number, such as 'lambda 0.2'")
    changes: dict[str, Any] = {"routing": words[0]}
    if len(words) == 2:
        name, read = _NUMBERS[words[0]]
        try:
            changes[name] = read(words[1])
        except ValueError:
            raise UsageError(f"routing {text!r}: {words[1]!r} is no number") from None
    return replace(base, **changes)
