"""Lines that are commands: a slash, a word, and for some what follows it. They stand for actions of the palette."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mlx.conversation.slash import is_command, unknown
from moe_mlx.routing.names import POLICIES
from moe_mlx_tui.palette import SHARES


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: With its slash.
        action: The app's action; what follows the name is its argument.
        takes: What may follow, in words; empty where nothing does.
        needs: Whether something has to.
        values: What is offered there.
        what: What it does, where the palette has no line for the action.
    """

    name: str
    action: str
    takes: str = ""
    needs: bool = False
    values: tuple[str, ...] = ()
    what: str = ""


#: In the order the menu shows them.
COMMANDS = (
    Command("/new", "new_session"),
    Command("/model", "models", "NAME"),
    Command("/sessions", "sessions"),
    Command("/rename", "rename", "TITLE", True, what="give this session another title"),
    Command("/regenerate", "regenerate"),
    Command("/edit", "edit_last"),
    Command("/undo", "undo"),
    Command("/redo", "redo"),
    Command("/search", "search", "WORDS"),
    Command("/copy", "pick_copy"),
    Command("/system", "system_prompt", "TEXT"),
    Command("/image", "image", "FILE", True, what="show the model a picture with the next message"),
    Command("/settings", "settings"),
    Command("/cap", "cap", "SHARE or BYTES", True, (*SHARES, "auto"), "change the expert cache's cap"),
    Command("/routing", "routing", "POLICY", True, tuple(POLICIES), "choose experts this way from the next token on"),
    Command("/compare", "compare", "ROUTING | ROUTING"),
    Command("/editor", "editor"),
    Command("/export", "export", "md or json", True, ("md", "json"), "write the conversation to a file in this folder"),
    Command("/map", "swap_map"),
    Command("/theatre", "theatre"),
    Command("/stats", "stats"),
    Command("/theme", "change_theme"),
    Command("/help", "help"),
    Command("/quit", "leave"),
    Command("/exit", "leave"),
)
_BY_NAME = {command.name: command for command in COMMANDS}


def command_of(line: str) -> tuple[Command, str] | None:
    """Returns the command that a line is, and what follows its name; None for a message.

    Raises:
        LookupError: it looks like a command and there is none of that name, or it lacks what it needs; says what to do.
    """
    name, _, rest = line.strip().partition(" ")
    command, rest = _BY_NAME.get(name), rest.strip()
    if command is None:
        if is_command(line):
            raise LookupError(f"{unknown(line, _BY_NAME)}; Ctrl+P has everything")
        return None
    if "\n" in line.strip() or (rest and not command.takes):
        return None
    if command.needs and not rest:
        raise LookupError(f"{name} needs {command.takes}: {command.what}")
    return command, rest
