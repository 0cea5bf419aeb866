"""Puts the user's own defaults (config file, environment) into the parser of a verb that a person uses."""

from __future__ import annotations

import argparse

from moe_mlx.errors import UsageError
from moe_mlx.routing.price import read_quality, read_speed
from moe_mlx.system.config import Default, defaults

#: Verbs that measure take none: what they print must not hang on a file that the command line does not show.
WITH_DEFAULTS = ("chat", "generate", "serve")
#: Options whose values are read later than the command line: a default is tried here, where its place is known.
READ = {"quality": read_quality, "speed": read_speed}


def apply_defaults(parser: argparse.ArgumentParser, verb: str) -> None:
    """Makes the user's defaults those of the verb's options; a flag still wins.

    Raises:
        UsageError: a value that the option does not take; names where it stands.
    """
    if verb not in WITH_DEFAULTS:
        return
    options = {action.dest: action for action in parser._actions if action.option_strings}
    for found in defaults().values():
        action = options.get(found.name)
        if action is not None:
            parser.set_defaults(**{found.name: _taken(action, found)})


def _taken(action: argparse.Action, found: Default) -> object:
    if action.choices is not None and found.value not in action.choices:
        known = ", ".join(map(str, action.choices))
        raise UsageError(f"{found.origin}: {found.name} = {found.value!r}: choose one of {known}")
    if (read := READ.get(found.name)) is not None:
        if found.value == "":  # of the environment: none, whatever the file says
            return None
        try:
            read(found.value)
        except UsageError as error:
            raise UsageError(f"{found.origin}: {error}") from None
    return found.value
