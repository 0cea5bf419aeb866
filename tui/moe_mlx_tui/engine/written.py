"""An answer as the screen gets it: one text, reasoning and calls between tags, whatever markers its family has."""

from __future__ import annotations

from collections.abc import Sequence

from moe_mlx_tui.drawing.sections import SAID, THOUGHT, TOOL
from moe_mlx_tui.engine.snapshot import NO_FACTS, ModelFacts

#: What the runtime calls the kinds of text, and what sections call them.
_KINDS = {"normal": SAID, "reasoning": THOUGHT, "tool": TOOL}


class Written:
    """Writes an answer's parts."""

    def __init__(self, facts: ModelFacts | None) -> None:
        shown = facts or NO_FACTS
        self._tags = {SAID: ("", ""), THOUGHT: shown.thinking, TOOL: shown.tools}
        self._texts: list[str] = []
        self._kind = SAID

    @property
    def text(self) -> str:
        """Everything so far; what is open stays open."""
        return "".join(self._texts)

    def add(self, parts: Sequence[tuple[str, str]]) -> None:
        """Writes text by kind."""
        for name, text in parts:
            kind = _KINDS[name]
            if kind != self._kind:
                self._texts += [self._tags[self._kind][1], self._tags[kind][0]]
                self._kind = kind
            self._texts.append(text)
