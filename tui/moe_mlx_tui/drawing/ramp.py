"""Colours and attributes of the map's states. 256 colours: a frame over SSH costs a third of true colour's bytes."""

from __future__ import annotations

from functools import lru_cache

from rich._palettes import EIGHT_BIT_PALETTE
from rich.color import Color, ColorType
from rich.palette import Palette
from rich.style import Style

from moe_mlx_tui.drawing.cells import ABSENT, ARRIVED, EVICTED, HELD, STATES, USED

_PALETTE: Palette = EIGHT_BIT_PALETTE
#: By state, from ABSENT up; see `cells`. Ember to ash on dark themes, ink to mist on light ones.
_DARK = (238, 60, 61, 97, 132, 173, 215, 67, 203, 230, 86)
_LIGHT = (251, 188, 182, 139, 137, 166, 160, 67, 161, 52, 30)


def eight_bit(number: int) -> Color:
    """Returns a colour that stays one of the terminal's 256 (with its triplet, so that no filter widens it)."""
    return Color(f"color({number})", ColorType.EIGHT_BIT, number, _PALETTE[number])


@lru_cache(64)
def state_style(state: int, dark: bool = True, marked: bool = False) -> Style:
    """Returns the style of a state; `marked` adds attributes that tell the lively ones apart without colour."""
    return Style(
        color=eight_bit((_DARK if dark else _LIGHT)[min(state, STATES - 1)]),
        bold=True if marked and state == USED else None,
        underline=True if marked and state == ARRIVED else None,
        strike=True if marked and state == EVICTED else None,
    )


@lru_cache(256)
def pair_style(top: int, bottom: int, dark: bool = True) -> Style:
    """Returns the style of a half-block cell: the upper state in front, the lower one behind."""
    numbers = _DARK if dark else _LIGHT
    back = None if bottom in (ABSENT, EVICTED) else eight_bit(numbers[bottom])
    return Style(color=eight_bit(numbers[top]), bgcolor=back)


#: One sign per state. Tiles are two columns wide, signs and the plain ones one.
SIGNS = {ABSENT: "·", EVICTED: "✕", USED: "◆", ARRIVED: "▲", HELD: "■"}
PLAIN = {ABSENT: ".", EVICTED: "x", USED: "@", ARRIVED: "+", HELD: "#"}
#: Resident, from OLDEST to NEWEST.
_AGES, _PLAIN_AGES = "▫▫▪▪■■", ":::ooO"


def sign(state: int, plain: bool = False) -> str:
    """Returns the sign of a state."""
    table, ages = (PLAIN, _PLAIN_AGES) if plain else (SIGNS, _AGES)
    return table[state] if state in table else ages[state - 1]
