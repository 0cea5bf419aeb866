"""Checks a story that the model wrote: well formed, one pronoun for the hero, and true to its prompt.

"Well formed" is strict: an opening and then the sentences of one plot, in order, with the same names and thing in
the slots all through.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass

from .plots import OPENINGS, PLOTS
from .turns import normalise
from .words import at_place

_HE, _SHE = {"he", "his", "him", "himself"}, {"she", "her", "herself"}
_SLOT = {
    "he": "(?:he|she)",
    "He": "(?:He|She)",
    "his": "(?:his|her)",
    "him": "(?:him|her)",
    "himself": "(?:himself|herself)",
}
_WORDS = r"[^\W\d_][\w' -]{0,30}?"


@dataclass(frozen=True, slots=True)
class StoryReport:
    """What was found out about one story; None where the prompt did not say."""

    well_formed: bool
    steady: bool
    name: bool | None
    animal: bool | None
    thing: bool | None
    place: bool | None

    @property
    def true_to_prompt(self) -> bool:
        """Whether everything that the prompt named is in the story."""
        return False not in (self.name, self.animal, self.thing, self.place)


def _pattern(template: str, seen: set[str]) -> str:
    """Turns a sentence template into a pattern; a slot that was seen before must hold the same words again."""
    parts = []
    for literal, field, _, _ in string.Formatter().parse(template):
        parts.append(re.escape(literal))
        if field is None:
            continue
        if field in _SLOT:
            parts.append(_SLOT[field])
        elif field in ("N", "F", "t", "a", "b"):
            parts.append(f"(?P={field})" if field in seen else f"(?P<{field}>{_WORDS})")
            seen.add(field)
        elif field in ("A", "Q", "K", "T", "B", "A2"):
            parts.append(f"(?:[Aa]n? {_WORDS})")
        else:
            parts.append(_WORDS)
    return "".join(parts)


def _matches(text: str, steps: tuple[tuple[str, ...], ...]) -> bool:
    """Whether the text is made of one way of each step; tried step by step, so that it stays quick."""
    paths: list[tuple[int, dict[str, str]]] = [(0, {})]
    for step in steps:
        longer: list[tuple[int, dict[str, str]]] = []
        for start, known in paths:
            for way in step:
                seen: set[str] = set()
                pattern = _pattern(way, seen)
                for name, value in known.items():
                    pattern = pattern.replace(f"(?P<{name}>{_WORDS})", f"(?P<{name}>{re.escape(value)})")
                found = re.compile(pattern + r"(?: |$)").match(text, start)
                if found:
                    longer.append((found.end(), known | found.groupdict()))
        paths = longer
    return any(end == len(text) for end, _ in paths)


def check_story(text: str, prompt: str, cast: Mapping[str, str]) -> StoryReport:
    """Checks a story against its prompt.

    Args:
        text: What the model wrote.
        prompt: What it was asked.
        cast: The `name`, `animal`, `thing` and `place` that the prompt may have named.
    """
    asked, told = f" {normalise(prompt)} ", f" {normalise(text)} "

    def kept(word: str) -> bool | None:
        plain = f" {normalise(word)} "
        return plain in told if plain in asked else None

    opening = next((found for found in (re.match(_pattern(way, set()) + " ", text) for way in OPENINGS) if found), None)
    known = opening.groupdict() if opening else {}
    body = text[opening.end() :] if opening else ""
    well_formed = bool(opening) and any(
        _matches(body, ((_known(steps[0], known)), *(_known(step, known) for step in steps[1:])))
        for steps in PLOTS.values()
    )
    words = set(told.split())
    place = at_place(cast["place"])
    return StoryReport(
        well_formed,
        not (words & _HE and words & _SHE),
        kept(cast["name"]),
        kept(cast["animal"]),
        kept(cast["thing"]),
        kept(place),
    )


def _known(step: tuple[str, ...], known: Mapping[str, str]) -> tuple[str, ...]:
    """Puts the hero's name, which the opening gave, into the sentences of a step."""
    return tuple(way.replace("{N}", known["N"]) for way in step)
