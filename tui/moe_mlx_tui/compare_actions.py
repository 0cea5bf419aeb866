"""Two routings on the last message, side by side: `/compare exact | lambda 0.2`."""

from __future__ import annotations

from functools import partial
from typing import ClassVar
from uuid import uuid4

from moe_mlx_tui.engine.orders import Compare, Stop
from moe_mlx_tui.engine.snapshot import Snapshot
from moe_mlx_tui.entry_actions import EntryActions
from moe_mlx_tui.screens.compare import CompareScreen

EXACT, OTHER = "exact", "lambda 0.2"


class CompareActions(EntryActions):
    """The conversation is not touched by it."""

    COMPARE_ACTIONS: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("compare two routings", "/compare exact | lambda 0.2: the last message under both, side by side", "compare"),
    )

    def action_compare(self, which: str = "") -> None:
        """Answers the last message under two routings; one that is left out is the one in force, or exact."""
        if not self.idle() or isinstance(self.screen, CompareScreen):
            return
        facts, asked = self.shown.model if self.shown is not None else None, self.talk.last("user")
        if facts is None or self.shown is None:
            self.notify("There is nothing to compare before a model is loaded.", severity="warning")
            return
        if asked is None:
            self.notify("Say something first: the last message is what both answer.", severity="warning")
            return
        names = [name.strip() for name in which.split("|") if name.strip()]
        in_force = self.shown.routing
        if not names:
            names = [EXACT, in_force if in_force != EXACT else OTHER]
        elif len(names) == 1:
            names.append(in_force if in_force != names[0] else EXACT)
        wire = self.talk.wire()
        until = len(wire) - len(self.talk.messages) + asked + 1
        turn = f"compare-{uuid4().hex[:12]}"
        self.push_screen(CompareScreen(turn, partial(self.source.submit, Stop(turn))))
        self.source.submit(Compare(turn, wire[:until], (names[0], names[1])))

    def show_comparison(self, snapshot: Snapshot) -> None:
        """Brings a comparison that is on the screen up to a snapshot."""
        for screen in self.screen_stack:
            if isinstance(screen, CompareScreen):
                screen.show(snapshot.compared)
