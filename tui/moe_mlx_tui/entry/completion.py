"""What the word at the cursor may become: a command, what follows one, or a file's name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from moe_mlx_tui.entry.commands import COMMANDS
from moe_mlx_tui.entry.files import quoted, within

_NAME = re.compile(r"/[a-z]*")
#: A file's name that is being typed: at the cursor, after a space or at the beginning; in quotes it may hold spaces.
_FILE = re.compile(r'(?<!\S)@(?:"([^"\n]*)|([^\s"]*))$')


@dataclass(frozen=True, slots=True)
class Choice:
    """One line of the menu.

    Attributes:
        text: What the word becomes.
        shown: What it is called.
        what: What it is.
        whole: Whether the line can be sent as it then is.
        goes_on: Whether there is more to choose after it.
        takes: Whether something may follow it.
    """

    text: str
    shown: str
    what: str = ""
    whole: bool = False
    goes_on: bool = False
    takes: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """What there is to choose from, in place of the line from column `start` to the cursor."""

    start: int
    choices: tuple[Choice, ...]


def completion(before: str, whole: str, explain: Mapping[str, str], files: Callable[[], bool]) -> Completion | None:
    """Returns what can be chosen at the cursor; None where there is nothing.

    Args:
        before: The line up to the cursor.
        whole: The whole text.
        explain: Action -> what it does.
        files: Whether names of files are completed; asked where there is one.
    """
    if before == whole and _NAME.fullmatch(before):
        found = [
            Choice(
                f"{command.name} " if command.needs else command.name,
                f"{command.name} {command.takes}".rstrip(),
                command.what or explain.get(command.action, ""),
                whole=not command.needs,
                goes_on=command.needs,
                takes=bool(command.takes),
            )
            for command in COMMANDS
            if command.name.startswith(before) and command.name != "/exit"
        ]
        return Completion(0, tuple(found)) if [choice.text for choice in found] not in ([], [before]) else None
    if before == whole:
        for command in COMMANDS:
            head = f"{command.name} "
            if command.values and before.startswith(head):
                rest = before[len(head) :].lstrip()
                values = [Choice(value, value, whole=True) for value in command.values if value.startswith(rest)]
                return Completion(len(before) - len(rest), tuple(values)) if values else None
    match = _FILE.search(before)
    if match is None or not files():
        return None
    typed = match[1] if match[1] is not None else match[2]
    choices = tuple(Choice(f"@{quoted(name)}", name, what, goes_on=name.endswith("/")) for name, what in within(typed))
    return Completion(match.start(), choices) if choices else None
