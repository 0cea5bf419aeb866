"""Every mixture of experts on this machine: the demo, the folders a user keeps models in, and the hub's cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_mlx.errors import MoeMlxError, UnsupportedModelError, UsageError
from moe_mlx.planning.shape import ModelShape, local_shape
from moe_mlx.store.demo import DEMO, demo_path
from moe_mlx.store.families import FAMILIES
from moe_mlx.store.files import expanded
from moe_mlx.store.json_files import read_config
from moe_mlx.store.manifest import NAME as MANIFEST
from moe_mlx.store.schemes import UnpackedError
from moe_mlx.store.vlm_families import VLM_FAMILIES

#: Where models are looked for unless the config file names folders: the README's, and LM Studio's.
DEFAULT_FOLDERS = ("~/models", "~/.lmstudio/models")
#: Most folders looked at below each of them, so that a home folder given by mistake does not take minutes.
MOST_FOLDERS = 2000


@dataclass(frozen=True, slots=True)
class Entry:
    """A model on this machine.

    Attributes:
        name: As shown: "demo", the folder's name, or the repository.
        model: What `--model` takes.
        place: "embedded", "folder" or "hub cache".
        path: Its folder.
        shape: What its headers say; None where they cannot be read.
        problem: Why it cannot be run as it is, and what to do; "" where it can.
        to_convert: Whether converting it is what to do.
    """

    name: str
    model: str
    place: str
    path: Path
    shape: ModelShape | None
    problem: str = ""
    to_convert: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of its weights; 0 where they are not known."""
        return 0 if self.shape is None else self.shape.experts_nbytes + self.shape.resident_nbytes

    @property
    def form(self) -> str:
        """What it is: "store", "checkpoint", "to convert", or "unreadable"."""
        if self.to_convert:
            return "to convert"
        return "unreadable" if self.shape is None else self.shape.form


def find_models(folders: Sequence[str | Path] = DEFAULT_FOLDERS) -> list[Entry]:
    """Returns the demo, then what lies in `folders` (two levels deep, as owner/name), then the hub's cache.

    Dense models are left out; a mixture of experts that is damaged or unfinished is listed with its problem.
    """
    entries = [*_demo()]
    seen: set[Path] = set()
    for folder in folders:
        for path in sorted(_below(folder)):
            if (real := path.resolve()) not in seen:
                seen.add(real)
                entries += _entry(path.name, str(path), "folder", path)
    for repo, path in _cached():
        if path.resolve() not in seen:
            entries += _entry(repo, repo, "hub cache", path)
    return entries


def _demo() -> Iterator[Entry]:
    try:
        yield from _entry(DEMO, DEMO, "embedded", demo_path())
    except MoeMlxError:  # an installation without it
        return


def _below(folder: str | Path) -> Iterator[Path]:
    """Yields the models in a folder that may not be there."""
    try:
        top = expanded(folder)
    except UsageError:
        return
    left = MOST_FOLDERS
    level = [top]
    for _ in range(3):
        inside: list[Path] = []
        for path in level:
            if left <= 0:
                return
            left -= 1
            if _is_model(path):
                yield path
            else:
                inside += _folders(path)
        level = inside


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return []


def _is_model(path: Path) -> bool:
    try:
        return (path / "config.json").exists() or (path / MANIFEST).exists()
    except OSError:
        return False


def _entry(name: str, model: str, place: str, path: Path) -> Iterator[Entry]:
    try:
        shape = local_shape(path)
        said = ""
        if shape.to_convert:
            said = f"has to be converted first: moe-mlx convert --model {model} --mlx-path FOLDER"
        yield Entry(name, model, place, path, shape, said, to_convert=shape.to_convert)
    except UnpackedError as error:
        yield Entry(name, model, place, path, None, str(error))
    except UnsupportedModelError:
        return
    except (MoeMlxError, OSError) as error:
        if _of_experts(path):
            yield Entry(name, model, place, path, None, str(error))


def _of_experts(path: Path) -> bool:
    """Whether a folder that cannot be opened is worth a line: it says it is of a family that has experts."""
    try:
        kind = str(read_config(path).get("model_type"))
    except (MoeMlxError, OSError):
        return (path / MANIFEST).exists()
    return kind in FAMILIES or kind in VLM_FAMILIES


def _cached() -> Iterator[tuple[str, Path]]:
    """Yields repository and snapshot of the models in huggingface-hub's cache."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir(constants.HF_HUB_CACHE)
    except (CacheNotFound, OSError, ValueError):
        return
    for repo in sorted(found.repos, key=lambda repo: repo.repo_id):
        if repo.repo_type != "model" or not repo.revisions:
            continue
        latest = max(repo.revisions, key=lambda kept: ("main" in kept.refs, kept.last_modified))
        if _is_model(latest.snapshot_path):
            yield repo.repo_id, latest.snapshot_path
