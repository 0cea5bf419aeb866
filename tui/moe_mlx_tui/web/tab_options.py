"""What a tab's process is told by its server, through its environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

#: The variable that holds them, as JSON.
VARIABLE = "MOE_MLX_TAB"


@dataclass(frozen=True, slots=True)
class TabOptions:
    """What a tab's process is told.

    Attributes:
        engine: The engine's socket.
        home: Folder of its sessions and prompt history.
        kept: Folder of what a reload brings back.
        server: The server's process; without it a tab ends.
        system: The system prompt.
        ascii: Whether the map is drawn with plain characters.
        theme: Name of the theme, or None.
        models: Whether other models may be chosen.
    """

    engine: str
    home: str
    kept: str
    server: int
    system: str = ""
    ascii: bool = False
    theme: str | None = None
    models: bool = True

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> TabOptions:
        """Returns what the server said."""
        return cls(**json.loads(environment[VARIABLE]))

    def to_environment(self) -> dict[str, str]:
        """Returns the variable to start a tab's process with."""
        return {VARIABLE: json.dumps(asdict(self))}
