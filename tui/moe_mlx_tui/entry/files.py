"""`@file` in a message: the file's text goes along below it, bounded, and what cannot be attached is refused.

A message keeps the words and the texts in one: `<file name="notes.txt">`, the text, `</file>`. The words alone are what
is shown, edited and remembered.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moe_mlx.errors import UsageError
from moe_mlx.store.files import expanded
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.terminal import harmless

#: Of all files of a message: some fifty thousand tokens, which is more than most contexts hold.
MOST_BYTES = 200_000
#: Lines of a menu.
_MOST_NAMES = 200
_NAMED = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|([^\s"]+))')
_BLOCK = re.compile(r'\n\n<file name="([^"\n]*)">\n(.*?)\n</file>(?=\n\n<file name="|\Z)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Attached:
    """A file's text in a message."""

    name: str
    text: str


def with_files(words: str) -> tuple[str, list[str]]:
    """Returns a message with the text of every file it names, and the names that are none.

    Raises:
        UsageError: a file that cannot be attached: binary, too large, a folder, unreadable.
    """
    found: dict[Path, Attached] = {}
    missing: list[str] = []
    left = MOST_BYTES
    for match in _NAMED.finditer(words):
        name = match[1] or match[2]
        path = _path(name)
        if path is None and match[2]:  # the sentence's own signs may stand behind it
            name = name.rstrip(".,;:!?)")
            path = _path(name)
        if path is None:
            missing.append(name)
        elif path not in found:
            text = _read(path, name, left)
            left -= len(text.encode())
            found[path] = Attached(harmless(name).replace('"', "'"), text)
    blocks = (f'\n\n<file name="{file.name}">\n{file.text}\n</file>' for file in found.values())
    return words + "".join(blocks), missing


def split_files(content: str) -> tuple[str, list[Attached]]:
    """Returns a message's words and what was attached to it."""
    first = _BLOCK.search(content)
    if first is None:
        return content, []
    return content[: first.start()], [Attached(match[1], match[2]) for match in _BLOCK.finditer(content)]


def _path(name: str) -> Path | None:
    try:
        path = expanded(name)
        return path.resolve() if name and path.exists() else None
    except (OSError, UsageError, ValueError):
        return None


def _read(path: Path, name: str, left: int) -> str:
    shown = harmless(name)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UsageError(f"{shown} is a folder: name a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{shown} is no file that can be read to its end")
        with path.open("rb") as file:
            data = file.read(left + 1)
        if len(data) > left:
            raise UsageError(
                f"{shown} has {show_bytes(status.st_size)}: a message takes {show_bytes(MOST_BYTES)} of files in all"
            )
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{shown} is no text: only text in UTF-8 can be attached") from None
    if "\0" in text:
        raise UsageError(f"{shown} is binary: only text can be attached")
    return text.rstrip("\n")


def quoted(name: str) -> str:
    """Returns a name as it is written after an @."""
    return f'"{name}' + ("" if name.endswith("/") else '"') if " " in name else name


def within(typed: str) -> Iterator[tuple[str, str]]:
    """Yields names that begin as typed, folders with a slash behind them, each with its size."""
    folder, slash, begun = typed.rpartition("/")
    try:
        inside = sorted(expanded(folder + slash or ".").iterdir(), key=lambda path: (not path.is_dir(), path.name))
    except (OSError, UsageError, ValueError):
        return
    count = 0
    for path in inside:
        hidden = path.name.startswith(".") and not begun.startswith(".")
        if hidden or not path.name.lower().startswith(begun.lower()) or any(sign in path.name for sign in '"\n\r'):
            continue
        try:
            if path.is_dir():
                yield f"{folder}{slash}{path.name}/", "folder"
            elif path.is_file():
                yield f"{folder}{slash}{path.name}", show_bytes(path.stat().st_size)
        except OSError:
            continue
        count += 1
        if count == _MOST_NAMES:
            return
