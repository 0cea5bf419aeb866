"""Two ways to write long tables of words and phrases compactly."""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """Splits at spaces and line ends."""
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Splits at bars."""
    return tuple(text.split("|"))
