"""`@file` in a message: the file's text goes along below it, bounded, and what cannot be attached is refused.

A message keeps the words and the texts in one: `<file name="notes.txt">`, the text, `</file>`. The words alone are what
is shown, edited and remembered. Of a picture it keeps the place and the digest; it is read again when it is shown.
"""

from __future__ import annotations

import base64
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.store import digest
from moe_mlx.store.files import expanded
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.terminal import harmless
from moe_mlx.vlm.pictures import Picture, read_picture, with_pictures

#: Of all files of a message: some fifty thousand tokens, which is more than most contexts hold.
MOST_BYTES = 200_000
#: Lines of a menu.
_MOST_NAMES = 200
_NAMED = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|([^\s"]+))')
_BLOCK = re.compile(r'\n\n<file name="([^"\n]*)">\n(.*?)\n</file>(?=\n\n<(?:file|picture) name="|\Z)', re.DOTALL)
_PICTURE = re.compile(r'\n\n<picture name="([^"\n]*)" digest="([0-9a-f]+)">([^\n]+)</picture>(?=\n\n<|\Z)')
#: Files that are taken for pictures.
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


@dataclass(frozen=True, slots=True)
class Attached:
    """A file in a message: its text, or what a picture is called by."""

    name: str
    text: str
    digest: str = ""

    @property
    def block(self) -> str:
        """How a message keeps it."""
        if self.digest:
            return f'\n\n<picture name="{self.name}" digest="{self.digest}">{self.text}</picture>'
        return f'\n\n<file name="{self.name}">\n{self.text}\n</file>'


def with_files(words: str) -> tuple[str, list[str]]:
    """Returns a message with the text of every file it names, and the names that are none.

    Raises:
        UsageError: a file that cannot be attached: binary and no picture, too large, a folder, unreadable.
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
            shown = harmless(name).replace('"', "'")
            if path.suffix.lower() in _ENDINGS:
                found[path] = Attached(shown, str(path), read_picture(path).digest)
                continue
            text = _read(path, name, left)
            left -= len(text.encode())
            found[path] = Attached(shown, text)
    texts = sorted(found.values(), key=lambda file: bool(file.digest))
    return words + "".join(file.block for file in texts), missing


def split_files(content: str) -> tuple[str, list[Attached]]:
    """Returns a message's words and what was attached to it."""
    firsts = [match.start() for pattern in (_BLOCK, _PICTURE) if (match := pattern.search(content)) is not None]
    if not firsts:
        return content, []
    texts = [Attached(match[1], match[2]) for match in _BLOCK.finditer(content)]
    pictures = [Attached(match[1], match[3], match[2]) for match in _PICTURE.finditer(content)]
    return content[: min(firsts)], texts + pictures


def seen(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns messages as the model gets them: pictures that a user's message names as pictures, read again.

    Raises:
        UsageError: a picture is gone, or is another one.
    """
    return [
        {**message, "content": _seen(message["content"])} if _names(message) else dict(message) for message in messages
    ]


def _names(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return message.get("role") == "user" and isinstance(content, str) and _PICTURE.search(content) is not None


def _seen(content: str) -> list[dict[str, Any]]:
    return with_pictures(_PICTURE.sub("", content), [picture for _, picture in _read_again(content)])


def sent(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns messages as a server gets them: pictures as data URLs, and nothing of where they lie.

    Raises:
        UsageError: as from `seen`.
    """
    return [
        {**message, "content": _sent(message["content"])} if _names(message) else dict(message) for message in messages
    ]


def _sent(content: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": _data_url(path, picture)}} for path, picture in _read_again(content)
    ]
    return [*parts, {"type": "text", "text": _PICTURE.sub("", content)}]


def _data_url(path: Path, picture: Picture) -> str:
    data = path.read_bytes()
    if digest.of([data]) != picture.digest:
        raise UsageError(f"{path}: changes while it is sent; send it again")
    kind = path.suffix.lower().removeprefix(".").replace("jpg", "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _read_again(content: str) -> list[tuple[Path, Picture]]:
    pictures = []
    for match in _PICTURE.finditer(content):
        picture = read_picture(match[3])
        if picture.digest != match[2]:
            raise UsageError(f"{match[3]}: is another picture than the one that was sent; send it again")
        pictures.append((Path(match[3]), picture))
    return pictures


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
