"""What the server tells each tab's process, through its environment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

VARIABLE = "MOE_MLX_TAB"


@dataclass(frozen=True, slots=True)
class TabOptions:
    """How a tab looks and begins.

    Attributes:
        system: The system prompt.
        ascii: Whether to draw with ASCII alone.
        theme: Name of a colour theme.
    """

    system: str | None = None
    ascii: bool = False
    theme: str | None = None

    @classmethod
    def of_environment(cls) -> TabOptions:
        """Returns what the server set; all defaults without a server."""
        return cls(**json.loads(os.environ.get(VARIABLE, "{}")))

    def hand_over(self) -> None:
        """Sets the environment of processes to come."""
        os.environ[VARIABLE] = json.dumps(asdict(self))
