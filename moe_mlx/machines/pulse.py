"""Signs of life between ranks, and what each counts meanwhile: a rank's figures ride on its beat. No MLX here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

#: Seconds between two signs of life, and of silence after which that is said.
BEAT, SILENT = 0.5, 3.0
#: Seconds after a look at the maps during which the other ranks send theirs.
_LOOKED = 3.0


class Pulse:
    """What one rank knows of the others' lives.

    Attributes:
        figures: Gives this rank's figures for rank 0, its map too where that is asked for; JSON. From any thread.
        latest: What each other rank sent last, by rank; at rank 0.
    """

    def __init__(self, ranks: Iterable[int], *, leads: bool) -> None:
        """Begins.

        Args:
            ranks: The others that are heard.
            leads: Whether this is rank 0, whom the others tell.
        """
        self.figures: Callable[[bool], dict[str, Any]] = lambda whole: {}
        self.latest: dict[int, dict[str, Any]] = {}
        self._leads = leads
        self._heard = dict.fromkeys(ranks, time.monotonic())
        self._told: dict[int, float] = {}
        self._looked = -_LOOKED
        self._whole = False

    def sign(self) -> dict[str, Any]:
        """Returns the message that says that this rank lives."""
        if self._leads:
            return {"beat": True, "whole": time.monotonic() - self._looked < _LOOKED}
        try:
            return {"beat": True, "figures": self.figures(self._whole)}
        except Exception:  # tables that change while they are read: figures may be missed, a sign of life may not
            return {"beat": True}

    def hear(self, rank: int, message: dict[str, Any]) -> None:
        """Takes any message of a rank as a sign of life, and its figures where it has some."""
        self._heard[rank] = time.monotonic()
        self._whole = bool(message.get("whole", self._whole))
        if isinstance(found := message.get("figures"), dict) and found:
            self.latest[rank] = {**self.latest.get(rank, {}), **found}

    def look(self) -> None:
        """Notes that somebody looks at the maps, so that the others send theirs for a while."""
        self._looked = time.monotonic()

    def silence(self, rank: int) -> float:
        """Returns the seconds since a rank was heard."""
        return time.monotonic() - self._heard[rank]

    def late(self) -> Iterator[tuple[int, float, bool]]:
        """Yields each rank that keeps the others waiting: its number, for how long, and whether to say so now."""
        for rank in self._heard:
            silent = self.silence(rank)
            if silent < BEAT:
                self._told.pop(rank, None)
                continue
            says = silent > SILENT and silent >= 2 * self._told.get(rank, 0)
            if says:
                self._told[rank] = silent
            yield rank, silent, says
