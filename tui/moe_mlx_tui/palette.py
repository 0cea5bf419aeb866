"""The command palette: every action of the app, and commands that take a value ("expert cache 37%")."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from moe_mlx.routing.names import COARSE, EXACT, LATE, LATE_COARSE, LIGHTS, POLICIES
from moe_mlx_tui.engine.orders import Source

#: Caps that are offered; any other may be typed.
SHARES = ("12.5%", "25%", "50%", "75%", "100%")


class PaletteApp(Protocol):
    """What the palette asks of the app."""

    ACTIONS: ClassVar[tuple[tuple[str, str, str], ...]]
    source: Source

    async def run_action(self, action: str) -> bool:
        """Runs one of the app's actions by name."""

    def set_cap(self, expert_cache: str) -> None:
        """Changes the cap."""

    def set_routing(self, **changes: object) -> None:
        """Changes the routing."""

    def set_sampling(self, **changes: object) -> None:
        """Changes the sampling."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the palette."""

    name: str
    help: str
    call: Callable[[], Any]


def entries(app: PaletteApp) -> Iterator[Entry]:
    """Yields what can be done, the most wanted first."""
    for name, text, action in app.ACTIONS:
        yield Entry(name, text, partial(app.run_action, action))
    if app.source.live:
        for share in SHARES:
            yield Entry(f"expert cache {share}", "change the cap now, between two tokens", partial(app.set_cap, share))
        for routing in POLICIES:
            yield Entry(
                f"routing {routing}",
                "choose experts this way from the next token on",
                partial(app.set_routing, routing=routing),
            )
        for light in LIGHTS:
            yield Entry(
                f"light experts {light}",
                _OF_LIGHT[light],
                partial(app.set_routing, light=light),
            )


#: What is done with absent experts of little weight.
_OF_LIGHT = {
    EXACT: "wait for absent ones of little weight",
    LATE: "let them join one layer later",
    COARSE: "use them at their high bits",
    LATE_COARSE: "their high bits, one layer later",
}
#: What may be typed with a value: pattern, what it says, how it is called.
_VALUES: tuple[tuple[str, str, str], ...] = (
    (r"(?:expert )?cache\s+(\d\S*|auto)", "expert cache {}", "set_cap"),
    (r"(?:route )?lambda\s+([\d.]+)", "cache-prior strength {}", "route_lambda"),
    (r"light (?:experts )?beyond\s+([\d.]+)", "light experts beyond {} of a token's weight", "light_beyond"),
    (r"temp(?:erature)?\s+([\d.]+)", "temperature {}", "temp"),
    (r"max tokens\s+(\d+)", "at most {} tokens an answer", "max_tokens"),
)


def typed(app: PaletteApp, query: str) -> Iterator[Entry]:
    """Yields the commands that `query` spells out with a value."""
    for pattern, text, kind in _VALUES:
        match = re.fullmatch(pattern, query.strip().lower())
        if match is None:
            continue
        value = match[1]
        try:
            call: Callable[[], Any]
            if kind == "set_cap":
                call = partial(app.set_cap, value)
            elif kind in ("route_lambda", "light_beyond"):
                call = partial(app.set_routing, **{kind: float(value)})
            else:
                call = partial(app.set_sampling, **{kind: int(value) if kind == "max_tokens" else float(value)})
        except ValueError:
            continue
        yield Entry(text.format(value), "from the next token on", call)


class Actions(Provider):
    """What Ctrl+P offers."""

    @property
    def _app(self) -> PaletteApp:
        return cast(PaletteApp, self.app)

    async def discover(self) -> Hits:
        """Yields everything."""
        for entry in entries(self._app):
            yield DiscoveryHit(entry.name, entry.call, help=entry.help)

    async def search(self, query: str) -> Hits:
        """Yields what matches."""
        spelled = list(typed(self._app, query))
        for entry in spelled:
            yield Hit(2.0, entry.name, entry.call, help=entry.help)
        names = {entry.name for entry in spelled}
        matcher = self.matcher(query)
        for entry in entries(self._app):
            if entry.name not in names and (score := matcher.match(entry.name)) > 0:
                yield Hit(score, matcher.highlight(entry.name), entry.call, help=entry.help)
