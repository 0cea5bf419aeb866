"""Adds what a loaded model's tables count to its history: when an answer ends, and when the model is closed.

Nothing here ever fails the program: what cannot be read or written is said in one line, once.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from moe_mlx.errors import ExpertReadError
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx.history.file import History, LayerHistory, NoHistoryError, history_path, read_history, write_history
from moe_mlx.history.profiles import profile_path, profiles_of
from moe_mlx.store import ExpertSource
from moe_mlx.store.identity import identity_of

#: Answers that end sooner after the last writing wait for the next one, or for the end.
EVERY_SECONDS = 10.0

Counts = tuple[list[int], list[int], list[int]]


class HistoryKeeper:
    """One model's history file.

    Attributes:
        path: Its place.
        past: What it held when the model was loaded; None for nothing.
        profile: Whose history it is; None for the model's own.
    """

    def __init__(
        self, path: Path, model: str, source: ExpertSource, say: Callable[[str], None], profile: str | None = None
    ) -> None:
        self.path, self.model, self.layers, self.profile = path, model, source.layers, profile
        self._tables: Callable[[], Sequence[ResidencyTable]] = list
        self._say = say
        self._lock = threading.RLock()  # a signal may interrupt whoever holds it
        self._fresh = tuple(LayerHistory.empty(layer.experts) for layer in self.layers)
        self._counted: list[Counts] = []
        self._saved = time.monotonic()
        self._complained = False
        self.past = self._read()

    def watch(self, tables: Callable[[], Sequence[ResidencyTable]]) -> None:
        """Counts from here on what the model's tables count, one of each layer whenever it is asked for them."""
        self._tables = tables
        self.begin()

    def begin(self) -> None:
        """Counts from here on; to be called when the tables' counts have been emptied."""
        self._counted = [_counts(table) for table in self._tables()]

    def absorb(self) -> None:
        """Takes what the tables have counted since the last call; to be called before they are emptied."""
        with self._lock:
            now = [_counts(table) for table in self._tables()]
            self._fresh = tuple(
                _plus(fresh, after, before)
                for fresh, after, before in zip(self._fresh, now, self._counted, strict=True)
            )
            self._counted = now

    def save(self, *, at_once: bool = False) -> None:
        """Adds what is new to the file: now, or if the last time was `EVERY_SECONDS` ago."""
        if not at_once and time.monotonic() - self._saved < EVERY_SECONDS:
            return
        self.absorb()
        with self._lock:
            if not any(sum(layer.distances) + sum(layer.rows) for layer in self._fresh):
                return
            self._saved = time.monotonic()
            past = self._read() or tuple(LayerHistory.empty(layer.experts) for layer in self.layers)
            merged = tuple(
                old.followed_by(fresh, layer.top_k)
                for old, fresh, layer in zip(past, self._fresh, self.layers, strict=True)
            )
            try:
                write_history(self.path, self.model, merged, self.profile)
            except OSError as error:
                self._complain(f"the history of this model cannot be kept: {error}")
                return
            self._fresh = tuple(LayerHistory.empty(layer.experts) for layer in self.layers)

    def _read(self) -> History | None:
        try:
            return read_history(self.path, self.model, self.layers)
        except NoHistoryError as reason:
            self._complain(f"{self.path} is no history of this model, so it begins anew: {reason}")
            return None

    def _complain(self, line: str) -> None:
        if not self._complained:
            self._complained = True
            self._say(line)


def open_history(
    history: str | Path | None, source: ExpertSource, say: Callable[[str], None], profile: str | None = None
) -> HistoryKeeper | None:
    """Returns the keeper of a model's history; None where none is wanted, or none can be had, which is said.

    Args:
        history: Where it is kept, as `check_history` returns it.
        source: The model.
        say: Gets one line: of a profile that holds nothing of this model yet, too.
        profile: A checked name; its history is kept apart from the model's own.
    """
    if history is None:
        return None
    try:
        model = identity_of(source)
        if profile is None:
            return HistoryKeeper(history_path(history, model), model, source, say)
        path = profile_path(history, profile, model)
        if not os.path.lexists(path):
            others = ", ".join(sorted({kept.name for kept in profiles_of(history) if kept.model == model}))
            say(f"profile {profile} holds nothing of this model yet" + (f"; it has {others}" if others else ""))
        return HistoryKeeper(path, model, source, say, profile)
    except (ExpertReadError, NoHistoryError) as error:
        say(f"no history is kept: {error}")
        return None


def _counts(table: ResidencyTable) -> Counts:
    return table.uses.tolist(), table.rows.tolist(), table.distances.tolist()


def _plus(fresh: LayerHistory, after: Counts, before: Counts) -> LayerHistory:
    sums = [
        tuple(old + new - then for old, new, then in zip(held, now, was, strict=True))
        for held, now, was in zip((fresh.uses, fresh.rows, fresh.distances), after, before, strict=True)
    ]
    return LayerHistory(*sums)
