"""The system prompt in force, in one line above the conversation; a click opens it."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from moe_mlx.system.terminal import harmless


class SystemLine(Static):
    """Shown while there is one."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.display = False

    def show(self, text: str) -> None:
        """Takes in the system prompt."""
        self.display = bool(text)
        words = " ".join(harmless(text).split())
        self.update(Content.assemble(("system  ", "bold $accent"), (words, "$foreground-muted")))

    async def on_click(self) -> None:
        """Opens it."""
        await self.run_action("app.system_prompt")
