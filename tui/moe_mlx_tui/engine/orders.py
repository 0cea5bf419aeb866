"""What the screen asks of the engine. Plain data: the same orders go through a queue or a socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from moe_mlx.errors import UsageError
from moe_mlx_tui.engine.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Ask:
    """Answer the last of `messages`; `at` messages (system prompt apart) stand before it."""

    turn: str
    at: int
    messages: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop that turn at the next token."""

    turn: str


@dataclass(frozen=True, slots=True)
class Configure:
    """Change what is named, between tokens; None leaves it."""

    sampling: dict[str, Any] = field(default_factory=dict)
    routing: dict[str, Any] = field(default_factory=dict)
    expert_cache: str | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """Empty the expert cache and its counters."""


@dataclass(frozen=True, slots=True)
class Load:
    """Run another model in place of the one there is, or the same one (`model` empty) with other options.

    Attributes:
        model: As `--model` takes it.
        revision: Of a hub repository.
        options: Arguments of the command line to change with it, such as `{"evict": "lfu"}`.
    """

    model: str = ""
    revision: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compare:
    """Answer the last of `messages` under two routings, as people write them; no part of the conversation."""

    turn: str
    messages: tuple[dict[str, Any], ...]
    routings: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Close:
    """End the engine."""


Order = Ask | Stop | Configure | Reset | Load | Compare | Close
_KINDS: dict[str, type[Any]] = {
    kind.__name__.lower(): kind for kind in (Ask, Stop, Configure, Reset, Load, Compare, Close)
}


def to_row(order: Order) -> dict[str, Any]:
    """Returns the order as a JSON object."""
    return {"order": type(order).__name__.lower(), **asdict(order)}


def from_row(row: Mapping[str, Any]) -> Order:
    """Returns the order in a JSON object.

    Raises:
        UsageError: it is none of ours.
    """
    body = dict(row)
    kind = _KINDS.get(str(body.pop("order", "")))
    try:
        if kind in (Ask, Compare):
            body["messages"] = tuple(dict(message) for message in body["messages"])
        if kind is Compare:
            one, other = map(str, body["routings"])
            body["routings"] = (one, other)
        if kind is None:
            raise TypeError(f"unknown order in {row!r}")
        order: Order = kind(**body)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"this row is no order: {error}") from error
    return order


class Source(Protocol):
    """Where snapshots come from: an engine in this process, one behind a socket, or a recording."""

    @property
    def latest(self) -> Snapshot:
        """The latest snapshot; may be read by any thread."""

    @property
    def live(self) -> bool:
        """Whether there is a model to talk to."""

    def start(self) -> None:
        """Begins to publish."""

    def submit(self, order: Order) -> None:
        """Hands an order over and returns at once."""

    def close(self) -> None:
        """Ends it and waits for the end."""
