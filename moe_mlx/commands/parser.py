"""A parser whose complaints are one line: what is wrong, what was probably meant, where help is."""

from __future__ import annotations

import argparse
import re
from difflib import get_close_matches
from typing import NoReturn

_CHOICE = re.compile(r"invalid choice: '(?P<given>[^']*)' \(choose from (?P<known>.*)\)")
_UNKNOWN = re.compile(r"unrecognized arguments: (?P<given>\S+)")
#: Options from which a usage line names none of them: they are listed below it.
MANY_OPTIONS = 12


class CommandParser(argparse.ArgumentParser):
    """argparse prints the whole usage before each complaint, which hides it below thirty lines of options."""

    def format_help(self) -> str:
        """Returns the help; what the verb does stands right below one line of usage."""
        named = [action for action in self._actions if action.option_strings and not action.required]
        if self.usage is not None or len(named) < MANY_OPTIONS:
            return super().format_help()
        formatter = self._get_formatter()
        formatter.add_usage(None, [action for action in self._actions if action not in named], [], prefix="")
        rest = " ".join(formatter.format_help().split()).removeprefix(self.prog)
        self.usage = f"%(prog)s [options]{rest.replace('%', '%%')}"
        try:
            return super().format_help()
        finally:
            self.usage = None

    def error(self, message: str) -> NoReturn:
        """Prints one line and ends with exit code 2."""
        self.exit(2, f"{self.prog}: {message}.{self._meant(message)} `{self.prog} --help` explains.\n")

    def _meant(self, message: str) -> str:
        """Returns what may be said beside a complaint of argparse's, or ""."""
        if (choice := _CHOICE.search(message)) is not None:
            known = [word.strip("' ") for word in choice["known"].split(",")]
            return self._nearest(choice["given"], known)
        if (unknown := _UNKNOWN.search(message)) is not None:
            given = unknown["given"].partition("=")[0]
            return self._nearest(given, [name for name in self._option_string_actions if name.startswith("--")])
        if message.endswith("expected one argument"):
            return " One that begins with a dash is written --option=VALUE."
        return ""

    @staticmethod
    def _nearest(given: str, known: list[str]) -> str:
        found = get_close_matches(given, known, n=1, cutoff=0.6)
        return f" Did you mean {found[0]}?" if found else ""
