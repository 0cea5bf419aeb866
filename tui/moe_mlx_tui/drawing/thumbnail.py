"""A small picture in half blocks: two pixels a character, in the colours of the terminal.

Textual draws characters, and so do recordings, a browser's tab and a terminal within tmux: what terminals have of
their own for pictures (Kitty, sixel) goes past all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textual.color import Color
from textual.content import Content
from textual.style import Style

from moe_mlx.errors import MoeMlxError
from moe_mlx.vlm.pictures import read_picture

#: The most room that a picture takes, in characters.
COLUMNS, ROWS = 32, 8
_HALF = "▀"


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture as it is shown.

    Attributes:
        size: Width and height of the picture itself, in pixels.
        drawn: Its lines.
    """

    size: tuple[int, int]
    drawn: Content


def thumbnail(path: str, digest: str) -> Thumbnail | None:
    """Draws a picture's file; None where it is gone, another one by now, or mlx-vlm is not installed.

    Args:
        path: Of the file.
        digest: Of the picture that was sent.
    """
    try:
        picture = read_picture(path)
    except MoeMlxError:
        return None
    return Thumbnail(picture.size, half_blocks(picture.image)) if picture.digest == digest else None


def half_blocks(image: Any) -> Content:
    """Draws an image of Pillow's, in RGB, as large as `COLUMNS` and `ROWS` allow."""
    width, height = image.size
    scale = min(COLUMNS / width, 2 * ROWS / height, 1.0)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    small = image.resize((wide, high))
    lines = []
    for y in range(0, high, 2):
        line = []
        for x in range(wide):
            below = Color(*small.getpixel((x, y + 1))) if y + 1 < high else None
            line.append(Content.styled(_HALF, Style(foreground=Color(*small.getpixel((x, y))), background=below)))
        lines.append(Content("").join(line))
    return Content("\n").join(lines)
