"""Which setting of an evaluation is under way and how far it is."""

from __future__ import annotations

from collections.abc import Callable

from moe_mlx.system.talk import Count, Talk


class Progress:
    """One line for all settings.

    Args:
        stages: How many settings there are in all.
    """

    def __init__(self, stages: int) -> None:
        self._talk, self._stages, self._stage = Talk(), stages, 0

    def stage(self, label: str, total: int, unit: str, *, first: bool = True) -> Callable[[int], None]:
        """Begins a part of a setting and returns what is to be called with the number done.

        Args:
            label: The setting.
            total: Of this part.
            unit: "tokens" or "tasks".
            first: Whether this is the first part of its setting.
        """
        self._stage += first
        return Count(self._talk, f"[{self._stage}/{self._stages}] {label}", total, unit).reach

    def finish(self) -> None:
        """Clears the line."""
        self._talk.clear()
