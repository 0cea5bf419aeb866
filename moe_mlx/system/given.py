"""What a user gave, checked: whole numbers, names among choices, lists separated by commas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TypeVar

from moe_mlx.errors import UsageError

T = TypeVar("T", str, int, float)


def is_whole(value: object, least: int | None = 1) -> bool:
    """Whether a value is a whole number, no boolean, and not below `least` (None: any)."""
    return isinstance(value, Integral) and not isinstance(value, bool) and (least is None or int(value) >= least)


def check_whole(name: str, value: object, least: int | None = 1, *, of: str = "") -> None:
    """Refuses what is no whole number.

    Args:
        name: The option, as the caller writes it.
        value: What was given.
        least: The smallest that is taken; None for any.
        of: What is counted, for the message.

    Raises:
        UsageError: it is none, or too small.
    """
    if not is_whole(value, least):
        counted, limit = f" of {of}" if of else "", "" if least is None else f", {least} or more"
        raise UsageError(f"{name} is {value!r}: give a whole number{counted}{limit}")


def check_choice(what: str, value: str, choices: Sequence[str]) -> str:
    """Returns what was given.

    Raises:
        UsageError: it is none of the choices.
    """
    if value not in choices:
        raise UsageError(f"unknown {what} {value!r}: choose one of {', '.join(choices)}")
    return value


def words_of(text: str) -> list[str]:
    """Returns what stands between the commas of a list, without spaces and empty places."""
    return [word for part in text.split(",") if (word := part.strip())]


def split_list(text: str, what: str, kind: Callable[[str], T], *, allowed: Sequence[T] | None = None) -> list[T]:
    """Returns the items of a list separated by commas, each once, in their order.

    Args:
        text: The list.
        what: The option, as the caller writes it.
        kind: `str`, `int` or `float`.
        allowed: What an item may be; None for anything.

    Raises:
        UsageError: no item at all, or one that cannot be taken.
    """
    items: list[T] = []
    for word in words_of(text):
        try:
            item = kind(word)
        except ValueError:
            raise UsageError(f"{what} {text!r}: {word!r} is no {'whole ' if kind is int else ''}number") from None
        if allowed is not None and item not in allowed:
            raise UsageError(f"{what} {text!r}: {word!r} is none of {', '.join(map(str, allowed))}")
        if item not in items:
            items.append(item)
    if not items:
        raise UsageError(f"{what} is empty: give values separated by commas")
    return items
