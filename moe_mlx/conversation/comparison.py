"""One prompt under two routings, one after the other on the same model: where do the answers part, and at what price?

Both begin alike: an empty expert cache, the whole prompt read, the same seed. So whatever differs is the routing's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import zip_longest
from textwrap import wrap
from typing import Any

from moe_mlx.conversation.answer import Answer, Piece
from moe_mlx.conversation.keeper import Keeper
from moe_mlx.conversation.session import Session
from moe_mlx.routing.settings import RoutingSettings

#: Of the sampler, where none was asked for.
SEED = 0
#: Before the first token that differs.
MARK = ">>"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two answers.

    Attributes:
        routing: In words.
        pieces: The text that each token added.
        answer: What it took.
    """

    routing: str
    pieces: tuple[str, ...]
    answer: Answer


def parting(one: tuple[int, ...], other: tuple[int, ...]) -> int | None:
    """Returns the place of the first token that differs; where one ends before the other, its end; None if alike."""
    for place, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return place
    return None if len(one) == len(other) else min(len(one), len(other))


def compare(
    session: Session,
    prompt: list[int],
    routings: tuple[RoutingSettings, RoutingSettings],
    *,
    on_begin: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
    on_prefill: Callable[[int, int], None] | None = None,
    on_piece: Callable[[int, Piece], None] | None = None,
    on_side: Callable[[int, Side], None] | None = None,
) -> tuple[Side, ...]:
    """Answers a prompt under each routing.

    Routing and sampling are as they were afterwards; the expert cache is as the second answer left it.

    Args:
        session: The session; what it holds of a conversation is forgotten.
        prompt: Token ids.
        routings: The two, in order.
        on_begin: Called with the side's number before it is answered, the counters at zero.
        stop: Set by another thread to end it at the next token; the second answer is then not begun.
        on_prefill: Called with prompt tokens done and in all.
        on_piece: Called with the side's number and each piece as it is made.
        on_side: Called with the side's number once it stands.

    Returns:
        The sides that were begun; two unless it was stopped.

    Raises:
        ExpertReadError: an expert could not be read.
    """
    runtime = session.runtime
    before = runtime.routing, session.sampling, session.store, session.auditor
    sides: list[Side] = []
    if session.sampling.temp and session.sampling.seed is None:
        session.sampling = replace(session.sampling, seed=SEED)
    session.store = None  # the second would find what the first has read
    if isinstance(session.auditor, Keeper):  # it would move what is to be compared
        session.auditor = None
    try:
        for number, routing in enumerate(routings):
            if stop is not None and stop.is_set():
                break
            session.forget()
            runtime.reset()
            runtime.set_routing(**{name: getattr(routing, name) for name in RoutingSettings.__dataclass_fields__})
            if on_begin is not None:
                on_begin(number)
            pieces: list[str] = []
            for piece in session.answer(prompt, stop=stop, on_prefill=on_prefill):
                pieces.append(piece.text)
                if on_piece is not None:
                    on_piece(number, piece)
            assert session.last is not None
            sides.append(Side(routing.describe(), tuple(pieces), session.last))
            if on_side is not None:
                on_side(number, sides[-1])
    finally:
        routing, session.sampling, session.store, session.auditor = before
        runtime.set_routing(**{name: getattr(routing, name) for name in RoutingSettings.__dataclass_fields__})
        session.forget()
    return tuple(sides)


def as_dict(sides: tuple[Side, ...]) -> dict[str, Any]:
    """Returns both answers for scripts; `differs` is the place of the first token that does, or null."""
    return {
        "differs": parting(sides[0].answer.tokens, sides[1].answer.tokens) if len(sides) > 1 else None,
        "sides": [
            {
                "routing": side.routing,
                "text": side.answer.text,
                "tokens": list(side.answer.tokens),
                "finish_reason": side.answer.finish_reason,
                "generation_tps": side.answer.generation_tps,
                "receipt": side.answer.receipt.as_dict(),
            }
            for side in sides
        ],
    }


def side_by_side(sides: tuple[Side, ...], columns: int, shown: Callable[[str], str]) -> str:
    """Returns both answers as columns of text, the first token that differs after a mark.

    Args:
        sides: Both.
        columns: Of the terminal.
        shown: Makes a text harmless for who reads it.
    """
    parted = parting(sides[0].answer.tokens, sides[1].answer.tokens)
    width = max(20, (columns - 3) // 2)
    texts = []
    for side in sides:
        pieces = list(side.pieces)
        if parted is not None:
            pieces.insert(parted, MARK)
        lines = shown("".join(pieces)).split("\n")
        texts.append([side.routing, "-" * width, *(part for line in lines for part in wrap(line, width) or [""])])
    rows = [f"{one:<{width}} | {other}".rstrip() for one, other in zip_longest(*texts, fillvalue="")]
    where = "the same tokens" if parted is None else f"they part at token {parted + 1}, at {MARK}"
    return "\n".join([*rows, "", where])
