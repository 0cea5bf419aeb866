"""What was hot: per model, layer and expert how often it was used, in a small file that follows its user. Counts only.

Old counts weigh less with every token that comes after them (half after `HALF_LIFE`). A file that is missing, foreign,
damaged or hostile is no history; it is written anew as a whole, so that of two programs the last one's file stands.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.store import ExpertLayer
from moe_mlx.store.files import expanded, open_regular
from moe_mlx.system.folders import user_folder
from moe_mlx.system.whole_files import write_whole

FORMAT, VERSION = "moe-mlx history", 1
#: Says to `load` that the history is kept in the user's own folder, or where `VARIABLE` says ("off": nowhere).
AUTO, VARIABLE = "auto", "MOE_MLX_HISTORY"
#: Tokens of a layer after which a count weighs half.
HALF_LIFE = 4096
#: The largest known model (92 layers x 512 experts) takes 1 MB.
LARGEST_FILE = 8_000_000
_LARGEST_COUNT = 1e12
_FIELDS = ("uses", "rows", "distances")


class NoHistoryError(Exception):
    """Why a file is no history, in a few words."""


@dataclass(frozen=True, slots=True)
class LayerHistory:
    """One MoE layer; the fields are those of `ResidencyTable`, aged.

    Attributes:
        uses: `[E]`, decode steps that used the expert.
        rows: `[E]`, rows of prompts that used it.
        distances: `[E + 1]`, decode uses by how many other experts came in between; first uses last.
    """

    uses: tuple[float, ...]
    rows: tuple[float, ...]
    distances: tuple[float, ...]

    @classmethod
    def empty(cls, experts: int) -> LayerHistory:
        """Returns the history of a layer that was never used."""
        return cls((0.0,) * experts, (0.0,) * experts, (0.0,) * (experts + 1))

    def tokens(self, top_k: int) -> float:
        """Returns how many decode steps are in it, aged."""
        return sum(self.distances) / top_k

    def followed_by(self, fresh: LayerHistory, top_k: int) -> LayerHistory:
        """Returns this history after what has happened since, aged by its tokens; prompts age prompts only."""
        decode = 0.5 ** (fresh.tokens(top_k) / HALF_LIFE)
        prompt = 0.5 ** (sum(fresh.rows) / top_k / HALF_LIFE)
        return LayerHistory(
            _aged(self.uses, fresh.uses, decode),
            _aged(self.rows, fresh.rows, prompt),
            _aged(self.distances, fresh.distances, decode),
        )

    def hottest(self) -> list[int]:
        """Returns the experts that were ever used, the most used first, ties to the lower number."""
        weight = [uses + rows for uses, rows in zip(self.uses, self.rows, strict=True)]
        return sorted((e for e, w in enumerate(weight) if w > 0), key=lambda expert: (-weight[expert], expert))


History = tuple[LayerHistory, ...]


def _aged(old: Iterable[float], fresh: Iterable[float], factor: float) -> tuple[float, ...]:
    # Rounded down, so that what is no longer used ends at zero.
    return tuple(math.floor(100 * (factor * before + now)) / 100 for before, now in zip(old, fresh, strict=True))


def history_folder(folder: str | Path) -> Path:
    """Returns `folder`, or for "auto" the user's own.

    Raises:
        NoHistoryError: there is no home folder.
    """
    if folder == AUTO:
        folder = os.environ.get(VARIABLE) or AUTO
    if folder != AUTO:
        return expanded(folder)
    try:
        return user_folder() / "history"
    except RuntimeError as error:
        raise NoHistoryError(str(error)) from None


def history_path(folder: str | Path, model: str) -> Path:
    """Returns the file of the model with that identity, in `folder` or, for "auto", in the user's own.

    Raises:
        NoHistoryError: there is no home folder.
    """
    return history_folder(folder) / f"{model}.json"


def read_history(path: Path, model: str, layers: Sequence[ExpertLayer]) -> History | None:
    """Returns what was stored of a model; None where nothing was.

    Raises:
        NoHistoryError: something else lies there.
    """
    found = parsed(path)
    if found is None:
        return None
    rows = found.get("layers")
    if found.get("model") != model or not isinstance(rows, list) or len(rows) != len(layers):
        raise NoHistoryError("of another model")
    return tuple(layer_of(row, layer.experts) for row, layer in zip(rows, layers, strict=True))


def parsed(path: Path) -> dict[str, Any] | None:
    """Returns the object in a history file, of which nothing but format and version is checked; None for no file.

    Raises:
        NoHistoryError: something else lies there.
    """
    try:
        fd = open_regular(path)
        with os.fdopen(fd, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NoHistoryError(error.strerror or str(error)) from None
    if len(data) > LARGEST_FILE:
        raise NoHistoryError(f"more than {LARGEST_FILE} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NoHistoryError(f"no JSON: {str(error)[:80]}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
        raise NoHistoryError(f"no {FORMAT} of version {VERSION}")
    return found


def layer_of(row: Any, experts: int) -> LayerHistory:
    """Returns one layer of a file.

    Raises:
        NoHistoryError: it is none of so many experts.
    """
    if not isinstance(row, Mapping):
        raise NoHistoryError("a layer is no object")
    fields = []
    for name in _FIELDS:
        numbers = row.get(name)
        if not isinstance(numbers, list) or len(numbers) != experts + (name == "distances"):
            raise NoHistoryError(f"{name} of another number of experts")
        for number in numbers:
            sound = type(number) in (int, float) and 0 <= number <= _LARGEST_COUNT  # a NaN is neither
            if not sound:
                raise NoHistoryError(f"{name} holds {str(number)[:40]!r}")
        fields.append(tuple(float(number) for number in numbers))
    return LayerHistory(*fields)


def write_history(path: Path, model: str, history: History, profile: str | None = None) -> None:
    """Writes the file anew as a whole; only its user may read it.

    Args:
        path: Its place.
        model: The model's identity.
        history: One of each layer.
        profile: The profile's name, where it is one.

    Raises:
        OSError: from the operating system; the old file stands.
    """
    write_whole(path, written(model, history, profile), private=True)


def written(model: str, history: History, profile: str | None = None, **more: Any) -> str:
    """Returns a history file's text; arguments as for `write_history`, and what else an exported one holds."""
    layers = [{name: [_short(x) for x in getattr(layer, name)] for name in _FIELDS} for layer in history]
    named = {} if profile is None else {"profile": profile}
    told = {"format": FORMAT, "version": VERSION, "model": model, **named, **more, "layers": layers}
    return json.dumps(told, separators=(",", ":")) + "\n"


def _short(number: float) -> float | int:
    return int(number) if number == int(number) else number


def check_history(history: str | Path | None) -> str | Path | None:
    """Returns where the history is to be kept, None for nowhere, as `VARIABLE` may say of "auto".

    Raises:
        UsageError: it is neither "auto" nor a folder's name.
    """
    if history is not None and (not isinstance(history, str | Path) or not str(history)):
        raise UsageError(f"history is {history!r}: give 'auto', a folder, or None")
    return None if history == AUTO and os.environ.get(VARIABLE) == "off" else history
