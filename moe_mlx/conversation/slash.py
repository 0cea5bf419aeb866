"""Lines that are commands and no messages: a slash and one word, such as /new. A path or a sentence is a message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_COMMAND = re.compile(r"/[a-z]+")


def is_command(line: str) -> bool:
    """Whether a line is meant as a command, known or not."""
    return _COMMAND.fullmatch(line.strip()) is not None


def unknown(line: str, known: Iterable[str]) -> str:
    """Returns what to say about a command that there is not."""
    names = sorted(known)
    near = get_close_matches(line.strip(), names, n=1)
    return f"there is no {line.strip()}: {f'did you mean {near[0]}?' if near else 'there are ' + ', '.join(names)}"
