"""Routings as people write them."""

import pytest

from moe_mlx.errors import UsageError
from moe_mlx.routing.settings import RoutingSettings
from moe_mlx.routing.spelled import spelled

BASE = RoutingSettings("cache-prior", 0.3, 1)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("exact", {"routing": "exact"}),
        ("lambda 0.2", {"routing": "cache-prior", "route_lambda": 0.2}),
        ("Cache-Prior 0.2", {"routing": "cache-prior", "route_lambda": 0.2}),
        ("cache-prior", {"routing": "cache-prior"}),
        ("max-rank 9", {"routing": "max-rank", "route_max_rank": 9}),
        ("cumulative 0.93", {"routing": "cumulative", "route_mass": 0.93}),
    ],
)
def test_what_is_left_open_is_as_it_was(text, changes):
    kept = {name: getattr(BASE, name) for name in BASE.__dataclass_fields__}
    assert spelled(text, BASE) == RoutingSettings(**{**kept, **changes})


@pytest.mark.parametrize("routing", ["exact", "cache-prior", "max-rank", "cumulative"])
def test_what_a_routing_says_of_itself_can_be_read_back(routing):
    settings = RoutingSettings(routing, 0.25, 1, 9, 0.5)
    assert spelled(settings.describe(), settings) == settings


@pytest.mark.parametrize("text", ["", "exactly", "exact 0.2", "lambda", "lambda two", "lambda 2", "lambda 0.1 0.2"])
def test_what_makes_no_sense_says_what_would(text):
    if text == "lambda":
        assert spelled(text, BASE) == BASE, "a policy without its number"
        return
    with pytest.raises(UsageError):
        spelled(text, BASE)
