"""What passes between this program and a terminal or a pipe: streams that are there, and text that is only text."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from collections.abc import Callable

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def prepare_streams() -> None:
    """Opens standard streams that are closed, and makes the others take every text and every byte.

    A closed one would give its descriptor to the next file that is opened, a model's perhaps, and a locale of ASCII
    alone would end an answer at its first accent: it is taken for UTF-8, as Python itself takes the locale "C".
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            encoding = codecs.lookup(stream.encoding).name.replace("ascii", "utf-8")
            raw_names = mode == "w" and encoding == "utf-8"  # a file's name may be no UTF-8: it is printed as it is
            stream.reconfigure(encoding=encoding, errors="surrogateescape" if raw_names else "replace")


def on_terminal() -> bool:
    """Whether the app can be shown: keys come from a terminal, and what is drawn goes to one that can draw."""
    streams = (sys.stdin, sys.stdout, sys.stderr)  # the last is what Textual draws on
    return all(stream.isatty() for stream in streams) and os.environ.get("TERM") != "dumb"


def sound(text: str) -> str:
    """Returns text that can be encoded: bytes that the locale could not read are read as UTF-8, what is left is marked.

    Arguments arrive with such bytes as lone surrogates, which no tokenizer takes.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "replace")
    return data.decode("utf-8", "replace")


def harmless(text: str) -> str:
    """Returns text that a terminal shows and does not obey: escape and control characters become visible signs.

    A model, a recording or a name in a stranger's files may hold sequences that retitle the window, write to the
    clipboard or draw over the screen. Each character is replaced by itself, so a growing text stays a growing text;
    a carriage return says nothing beside a line's end and is left out.
    """
    return _CONTROL.sub(_sign, text)


def for_reader() -> Callable[[str], str]:
    """Returns what an answer goes through on its way to standard output: a pipe gets every character as it is."""
    return harmless if sys.stdout.isatty() else str


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] == "\r":
        return ""
    if code == 0x7F:
        return "\N{SYMBOL FOR DELETE}"
    return chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"


def to_stderr(line: str) -> None:
    """Says a line to whoever watches: standard output is for data."""
    print(harmless(line), file=sys.stderr)
