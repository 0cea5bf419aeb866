"""Profiles: histories by task. Each has a name and one history file a model, beside the models' own.

A file that is exported is that history file. It comes from a stranger when it is imported: its shape is checked, and
what is kept is written anew from its numbers alone.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.history.file import (
    History,
    NoHistoryError,
    history_folder,
    layer_of,
    parsed,
    write_history,
    written,
)
from moe_mlx.history.kept_rows import row_of
from moe_mlx.history.light_fits import LightFit, fits_path, keep_fit, read_fits, sound

FOLDER = "profiles"
#: Lower case, since a Mac's disks take Coding and coding for one.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_IDENTITY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile's history of one model.

    Attributes:
        name: What it was exported or is kept as; empty where a file says none.
        model: The model's identity.
        path: The file.
        history: What it holds; None where it is no sound history.
        problem: Why not.
        fits: Thresholds of light experts by layer that were fitted for it.
    """

    name: str
    model: str
    path: Path
    history: History | None
    problem: str = ""
    fits: tuple[LightFit, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Returns what a list shows: sizes, and how many uses are in it, aged."""
        layers = self.history or ()
        return {
            "profile": self.name,
            "model": self.model,
            "experts": [len(layer.uses) for layer in layers],
            "decode_uses": sum(sum(layer.uses) for layer in layers),
            "prompt_uses": sum(sum(layer.rows) for layer in layers),
            "light_fits": len(self.fits),
            "path": str(self.path),
            "problem": self.problem or None,
        }


def check_profile(name: str | None) -> str | None:
    """Returns the name of a profile, which is a folder's name; None for none.

    Raises:
        UsageError: it is no such name.
    """
    if name is not None and (not isinstance(name, str) or not _NAME.fullmatch(name)):
        raise UsageError(
            f"profile {str(name)[:80]!r}: give a name of small letters, digits, '.', '_' and '-', 64 at most, that "
            "begins with a letter or a digit"
        )
    return name


def profile_path(folder: str | Path, name: str, model: str) -> Path:
    """Returns the file of a profile's history of a model.

    Args:
        folder: Where histories are kept; "auto" for the user's own.
        name: A checked name.
        model: The model's identity.

    Raises:
        NoHistoryError: there is no home folder.
    """
    return history_folder(folder) / FOLDER / name / f"{model}.json"


def profiles_of(folder: str | Path, name: str | None = None, model: str | None = None) -> list[Profile]:
    """Returns the profiles that are kept, in the order of their names: all, or those of a name or of a model.

    Raises:
        NoHistoryError: there is no home folder.
    """
    found = []
    for path in sorted((history_folder(folder) / FOLDER).glob("*/*.json")):
        named = _NAME.fullmatch(path.parent.name) and _IDENTITY.fullmatch(path.stem)
        if named and name in (None, path.parent.name) and model in (None, path.stem):
            found.append(_kept(path))
    return found


def _kept(path: Path) -> Profile:
    name, model = path.parent.name, path.stem
    try:
        read = read_profile(path)
    except NoHistoryError as reason:
        return Profile(name, model, path, None, str(reason))
    if read.model != model:
        return Profile(name, model, path, None, "of another model")
    return Profile(name, model, path, read.history, fits=tuple(read_fits(model, path)))


def exported(profile: Profile) -> str:
    """Returns the text of the file that takes a sound profile elsewhere."""
    assert profile.history is not None
    fits = {"light_fits": [asdict(fit) for fit in profile.fits]} if profile.fits else {}
    return written(profile.model, profile.history, profile.name, **fits)


def remove_profile(profile: Profile) -> None:
    """Removes its files, and the folder of its name where that is empty then.

    Raises:
        OSError: from the operating system.
    """
    profile.path.unlink()
    fits_path(profile.model, profile.path).unlink(missing_ok=True)
    if not any(profile.path.parent.iterdir()):
        profile.path.parent.rmdir()


def read_profile(path: Path) -> Profile:
    """Returns what a file holds, whatever model it is of.

    Raises:
        NoHistoryError: it is no history, or there is no file.
    """
    found = parsed(path)
    if found is None:
        raise NoHistoryError("no such file")
    name, model, rows = found.get("profile", ""), found.get("model"), found.get("layers")
    if not isinstance(model, str) or not _IDENTITY.fullmatch(model):
        raise NoHistoryError("it names no model")
    if not isinstance(rows, list) or not rows:
        raise NoHistoryError("it has no layers")
    if not all(map(_experts, rows)):
        raise NoHistoryError("a layer has no experts")
    history = tuple(layer_of(row, _experts(row)) for row in rows)
    named = name if isinstance(name, str) else ""
    return Profile(named, model, path, history, fits=_fits(found.get("light_fits", []), len(history)))


def _fits(rows: Any, layers: int) -> tuple[LightFit, ...]:
    try:
        fits = tuple(row_of(LightFit, row) for row in rows)
    except (TypeError, ValueError, KeyError):
        raise NoHistoryError("its light_fits are no thresholds") from None
    if not all(sound(fit, layers) for fit in fits):
        raise NoHistoryError("its light_fits are of another number of layers")
    return fits


def _experts(row: Any) -> int:
    uses = row.get("uses") if isinstance(row, dict) else None
    return len(uses) if isinstance(uses, list) else 0


def import_profile(
    folder: str | Path, file: Path, *, name: str | None = None, model: str | None = None, replace: bool = False
) -> Profile:
    """Keeps a file as a profile's history of its model.

    Args:
        folder: Where histories are kept; "auto" for the user's own.
        file: What `export` wrote, or any history file.
        name: Under which name; by default the file's own.
        model: Identity that the file has to be of; by default any.
        replace: Whether one that is there gives way.

    Raises:
        UsageError: it is no history, of another model, without a name, or there is one of that name.
        OSError: it cannot be written.
    """
    try:
        read = read_profile(file)
        named = name or read.name
        if not named:
            raise UsageError(f"{file} says no name: give one with --name")
        check_profile(named)
        path = profile_path(folder, named, read.model)
    except NoHistoryError as reason:
        raise UsageError(f"{file} is no profile: {reason}") from None
    if model is not None and model != read.model:
        raise UsageError(f"{file} is of the model {read.model}, and this one is {model}: a profile fits its own model")
    if os.path.lexists(path) and not replace:
        raise UsageError(f"there is a profile {named} of this model: give --replace, or another --name")
    assert read.history is not None
    write_history(path, read.model, read.history, named)
    fits_path(read.model, path).unlink(missing_ok=True)
    for fit in read.fits:
        keep_fit(read.model, fit, path)
    return Profile(named, read.model, path, read.history, fits=read.fits)
