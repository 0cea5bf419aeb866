"""Says no more to the terminal than it must: of each change of style, only what differs.

Textual closes every run with a reset and repeats colour and background in the next. A map has hundreds of short runs a
frame, so most of its bytes are repetition, and over SSH every byte counts. The picture stays the same.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SGR = re.compile(r"\x1b\[([0-9;]*)m")
_MOVE = re.compile(r"\x1b\[\d+;\d+H\Z")
_RESET = "\x1b[0m"


@lru_cache(4096)
def _parsed(codes: str) -> tuple[frozenset[str], str, str]:
    """Returns attributes, colour and background of an SGR sequence."""
    words = codes.split(";")
    attributes: set[str] = set()
    colour = background = ""
    place = 0
    while place < len(words):
        word = words[place]
        if word in ("38", "48"):
            size = 3 if words[place + 1] == "5" else 5
            value = ";".join(words[place : place + size])
            colour, background = (value, background) if word == "38" else (colour, value)
            place += size
            continue
        if len(word) >= 2 and word[0] in "39" and word[:2] != "38" and word not in ("9", "39"):
            colour = word
        elif (word[0] == "4" and len(word) == 2) or word[:2] == "10":
            background = word
        else:
            attributes.add(word)
        place += 1
    return frozenset(attributes), colour, background


@lru_cache(16384)
def step(before: str, after: str) -> str:
    """Returns the sequence that leads from one style to another."""
    (had, old, behind), (has, new, back) = _parsed(before), _parsed(after)
    if had - has or (old and not new) or (behind and not back):
        return f"\x1b[0;{after}m"
    words = [*sorted(has - had), *([new] if new != old else []), *([back] if back != behind else [])]
    return f"\x1b[{';'.join(words)}m" if words else ""


@lru_cache(16384)
def _same_ground(before: str, after: str) -> bool:
    (had, _, behind), (has, _, back) = _parsed(before), _parsed(after)
    return behind == back and not had and not has


def compact(data: str) -> str:
    """Returns the same drawing in fewer characters."""
    parts = _SGR.split(data)
    if len(parts) < 5:
        return data
    out = [parts[0]]
    style, owed = "", False  # what is in force, and whether a reset is owed
    for place in range(1, len(parts), 2):
        codes, text = parts[place], parts[place + 1]
        if codes in ("", "0"):
            if text and not _MOVE.match(text):
                out.append(_RESET)
                style, owed = "", False
            else:
                owed = True
        elif owed and style and not text.strip(" ") and _same_ground(style, codes):
            owed = False  # blanks show no colour: what is in force will do
        else:
            out.append(step(style, codes) if owed and style else f"\x1b[{codes}m")
            style, owed = codes, False
        out.append(text)
    if owed:
        out.append(_RESET)
    return "".join(out)
