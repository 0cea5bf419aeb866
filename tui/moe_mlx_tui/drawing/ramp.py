"""How each state of the map looks. 256 colours: a frame over SSH costs a third of true colour's bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from rich._palettes import EIGHT_BIT_PALETTE
from rich.color import Color, ColorType
from rich.palette import Palette
from rich.style import Style

from moe_mlx_tui.drawing.cells import COARSE, ELSEWHERE, STATE_BITS, STATES

_PALETTE: Palette = EIGHT_BIT_PALETTE


@dataclass(frozen=True, slots=True)
class Look:
    """A state on the screen; no two share a sign, but for neighbours in age.

    Attributes:
        word: In the legend.
        signs: Whole and coarse, one column each.
        plain: The same in ASCII.
        dark: Colour on dark themes, one of the terminal's 256.
        light: Colour on light themes.
        mark: The attribute that tells it apart where there is no colour.
    """

    word: str
    signs: str
    plain: str
    dark: int
    light: int
    mark: str = ""


#: By state. Ages go from ember to ash on dark themes, from ink to mist on light ones.
LOOKS = (
    Look("absent", "··", "..", 238, 251),
    Look("more", "▫∘", ":'", 60, 188),
    Look("≤512", "▫∘", ":'", 61, 182),
    Look("≤128", "▪○", ":'", 97, 139),
    Look("≤32", "▪○", "oc", 132, 137),
    Look("≤8", "■●", "oc", 173, 166),
    Look("≤2", "■●", "OC", 215, 160),
    Look("held whole", "■●", "#%", 67, 67),
    Look("evicted", "✕✕", "xx", 203, 161, "strike"),
    Look("in use", "◆◇", "@&", 230, 52, "bold"),
    Look("just read", "▲△", "+=", 86, 30, "underline"),
    Look("late", "▼▽", "*~", 177, 90, "underline2"),
)
assert len(LOOKS) == STATES


def eight_bit(number: int) -> Color:
    """Returns a colour that stays one of the terminal's 256 (with its triplet, so that no filter widens it)."""
    return Color(f"color({number})", ColorType.EIGHT_BIT, number, _PALETTE[number])


def _look(cell: int) -> Look:
    return LOOKS[min(cell & STATE_BITS, STATES - 1)]


def _colour(cell: int, dark: bool) -> Color:
    look = _look(cell)
    return eight_bit(look.dark if dark else look.light)


@lru_cache(256)
def state_style(cell: int, dark: bool = True, marked: bool = False, ground: Color | None = None) -> Style:
    """Returns the style of a cell; `marked` adds attributes that tell some states apart without colour."""
    marks = {mark: True for mark in (_look(cell).mark, "italic" if cell & COARSE else "") if marked and mark}
    return Style(color=_colour(cell, dark), bgcolor=ground, **marks)  # type: ignore[arg-type]


@lru_cache(1024)
def pair_style(top: int, bottom: int, dark: bool = True, ground: Color | None = None) -> Style:
    """Returns the style of a half-block cell: the upper cell in front, the lower one behind."""
    back = ground if bottom & STATE_BITS in ELSEWHERE else _colour(bottom, dark)
    return Style(color=_colour(top, dark), bgcolor=back)


def sign(cell: int, plain: bool = False) -> str:
    """Returns the sign of a cell."""
    look = _look(cell)
    return (look.plain if plain else look.signs)[bool(cell & COARSE)]
