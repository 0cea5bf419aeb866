"""Colours that can be read: every label at least 4.5 to 1 against each ground it may stand on, in every theme."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from textual.color import BLACK, WHITE, Color, ColorParseError

#: The ratio of WCAG 2 for text.
WANTED = 4.5
#: A little more is asked for: colours are rounded on the way to the terminal.
_AIM = 4.6
_GROUNDS = ("background", "surface", "panel")
_INKS = ("foreground", "foreground-muted", "foreground-disabled")
_COLOURS = ("primary", "secondary", "accent", "success", "warning", "error")
#: Inks that stand on a ground of their own.
_PAIRS = (
    ("input-cursor-foreground", "input-cursor-background"),
    ("input-selection-foreground", "input-selection-background"),
    ("button-color-foreground", "primary"),
    ("button-foreground", "surface"),
)
_QUIET = {"text-muted": 60, "text-disabled": 38}


def _luminance(colour: Color) -> float:
    parts = (c / 255 for c in (colour.r, colour.g, colour.b))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Color, other: Color) -> float:
    """Returns the ratio of two opaque colours, 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _reads(colour: Color, grounds: Iterable[Color]) -> bool:
    return all(contrast(ground.blend(colour, colour.a, 1), ground) >= _AIM for ground in grounds)


def _parsed(text: str) -> Color:
    """Returns a colour as style sheets write it, such as `#81a1c1 35%`."""
    name, _, share = text.partition(" ")
    colour = Color.parse(name)
    return colour.with_alpha(float(share.rstrip("%")) / 100) if share else colour


def legible(colour: Color, grounds: list[Color]) -> Color:
    """Returns the nearest colour towards black or white that can be read on every ground."""
    if _reads(colour, grounds):
        return colour
    solid = grounds[0].blend(colour, colour.a, 1)
    end = max((WHITE, BLACK), key=lambda ink: min(contrast(ink, ground) for ground in grounds))
    for step in range(1, 21):
        found = solid.blend(end, step / 20, 1)
        if _reads(found, grounds):
            return found
    return end


def _quiet(percent: int, grounds: list[Color]) -> str:
    """Returns black or white, whichever a ground asks for, thinned no further than can be read."""
    for share in range(percent, 101):
        if all(_reads(ground.get_contrast_text(share / 100), [ground]) for ground in grounds):
            return f"auto {share}%"
    return "auto"


def readable(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns a theme's variables with its inks made legible; a theme of the terminal's own colours stays as it is."""
    found = dict(variables)
    try:
        grounds = [_parsed(found[name]) for name in _GROUNDS]
    except (ColorParseError, KeyError):
        grounds = []
    if not grounds or any(ground.ansi is not None or ground.a < 1 for ground in grounds):
        return found | {name: "ansi_default" for name in (*_INKS, *_QUIET)}  # how far they differ is not ours to know
    for name in (*_INKS, *_COLOURS):
        found[name] = legible(_parsed(found[name]), grounds).hex
    for ink, ground in _PAIRS:
        back = _parsed(found[ground])
        front = _parsed(found["foreground"] if found[ink].startswith("auto") else found[ink])
        found[ink] = legible(front, [below.blend(back, back.a, 1) for below in grounds]).hex
    for name, percent in _QUIET.items():
        found[name] = _quiet(percent, [*grounds, _parsed(found["input-cursor-background"])])
    return found
