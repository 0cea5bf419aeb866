"""Stores in the hub's cache: a snapshot is a folder of links, which a store may not hold: files get a second name.

huggingface-hub keeps a repository as `models--owner--name/blobs/` and `snapshots/<commit>/`, links to the former. Hard
links beside them, `models--owner--name/moe-mlx/<commit>/name`, take no disk, and every later check of a store holds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from moe_mlx.errors import StoreCorruptError, StoreError, StoreMissingError
from moe_mlx.store.manifest import NAME

_FOLDER = "moe-mlx"


def real_store(folder: Path) -> Path:
    """Returns the folder to open a store in: where `folder` is a snapshot, one of real files, made if it is not there.

    Args:
        folder: Any folder; what is no store in a snapshot, `.../models--owner--name/snapshots/<commit>`, comes back as
            it is.

    Raises:
        StoreMissingError: a file of the snapshot has not arrived.
        StoreCorruptError: a link that leads anywhere but to the repository's own blobs.
        StoreError: the second names cannot be made.
    """
    snapshot = folder.absolute()
    if snapshot.parent.name != "snapshots" or not (snapshot / NAME).is_symlink():
        return folder
    repository = snapshot.parent.parent
    wanted = dict(_files(snapshot, repository / "blobs"))
    name = repository.name.rpartition("--")[2] or "store"
    place = repository / _FOLDER / snapshot.name / name
    if not _same(place, wanted):
        try:
            _make(place, wanted)
        except OSError as error:
            if _same(place, wanted):  # another process was faster
                return place
            raise StoreError(
                f"{snapshot} is a store, and {place} cannot be made beside it: {error.strerror or error}. Fetch it as "
                "a folder of files (`hf download REPO --local-dir FOLDER`) and name that."
            ) from None
    return place


def _files(snapshot: Path, blobs: Path) -> Iterator[tuple[Path, Path]]:
    """Yields each file's name below the snapshot, and the blob behind it."""
    blobs = blobs.resolve()
    for folder, folders, names in os.walk(snapshot):
        for name in [*names, *(f for f in folders if (Path(folder) / f).is_symlink())]:
            path = Path(folder) / name
            blob = path.resolve()
            if not blob.exists():
                raise StoreMissingError(f"{path}: the link points nowhere; fetch the store again.")
            if blob.parent != blobs or not blob.is_file():
                raise StoreCorruptError(f"{path}: leads to {blob}, not to a file of the hub's cache; fetch it again.")
            yield path.relative_to(snapshot), blob


def _same(place: Path, wanted: dict[Path, Path]) -> bool:
    """Whether what was made earlier is the snapshot as it is now."""
    found = {Path(folder, name).relative_to(place) for folder, _, names in os.walk(place) for name in names}
    return found == wanted.keys() and all((place / name).samefile(blob) for name, blob in wanted.items())


def _make(place: Path, wanted: dict[Path, Path]) -> None:
    """Makes the folder under another name first: half of it is never taken for a store."""
    unfinished = place.with_name(f"{place.name}.{os.getpid()}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for name, blob in wanted.items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(blob, unfinished / name)
        shutil.rmtree(place, ignore_errors=True)
        unfinished.rename(place)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
