"""Lines in ASCII: what is ours to draw (borders, bars, bullets, arrows) becomes plain, a text keeps its letters."""

from __future__ import annotations

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

#: What a sign becomes; each stays as wide as it was.
_SIGNS = {
    "│┃║▏▎▍▌▋▊▉▐▕╎╏┆┇┊┋▎▍": "|",
    "─━═╌╍┄┅┈┉▔▁": "-",
    "┌┐└┘├┤┬┴┼╭╮╰╯╒╓╔╕╖╗╘╙╚╛╜╝╞╟╠╡╢╣╤╥╦╧╨╩╪╫╬┏┓┗┛┣┫┳┻╋▛▜▙▟▖▗▘▝": "+",
    "·•∙◦▪▫●○◉◌◐◆◇■□": "*",
    "…": ".",
    "×✕✗✘": "x",
    "≤‹◀◂←": "<",
    "≥›▶▸→": ">",
    "▲▴↑": "^",
    "▼▾↓": "v",
    "▂▃▄▅▆▇█▀░▒▓⭘": "#",
    "“”": '"',
    "‘’": "'",
    "–—": "-",
    "🔎": "> ",  # two columns wide
}
_TABLE = {ord(sign): plain for signs, plain in _SIGNS.items() for sign in signs}


def plainly(text: str) -> str:
    """Returns a text with its signs in ASCII, as long as it was."""
    return text if text.isascii() else text.translate(_TABLE)


class PlainSigns(LineFilter):
    """Goes over each line that is about to be drawn."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Returns the line in plain signs."""
        return [Segment(plainly(text), style, control) for text, style, control in segments]
