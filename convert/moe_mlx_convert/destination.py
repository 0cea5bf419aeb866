"""The folder that is being written: found free, locked, resumed, and given its name when it is whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path

from moe_mlx.errors import UsageError
from moe_mlx.store.durable import Fs
from moe_mlx.store.files import expanded, openable
from moe_mlx.store.manifest import NAME as MANIFEST
from moe_mlx_convert.copying import SUFFIX
from moe_mlx_convert.errors import failed
from moe_mlx_convert.journal import NAME as JOURNAL

#: Room kept free beside the planned bytes: a block and directory entries for every file.
SLACK_PER_FILE = 4_608
SLACK = 256_000
#: What the folder's name ends with until the store is whole.
UNFINISHED = ".partial"
FINDER_FILES = (".DS_Store", ".localized")


def unfinished(path: Path | str) -> Path:
    """Returns the folder that holds a store until it is whole.

    Raises:
        UsageError: No folder can have that name, or no store.
    """
    whole = openable(Path(os.path.abspath(expanded(path))))  # noqa: PTH100  resolve() would follow a link at DST itself
    if not whole.name:
        raise UsageError(f"{path}: no folder name to write to; give --mlx-path a new folder.")
    return whole.with_name(whole.name + UNFINISHED)


class Destination:
    """`DST` and its unfinished form `DST.partial`.

    Args:
        fs: File operations.
        path: Where the store is to appear.
        source: The checkpoint's folder, which must not be touched.
        say: Takes remarks.
    """

    def __init__(self, fs: Fs, path: Path, source: Path, say: Callable[[str], None]) -> None:
        self._fs = fs
        self._say = say
        self.partial = unfinished(path)
        self.path = self.partial.with_name(self.partial.name.removesuffix(UNFINISHED))
        self._fd = -1
        if os.path.lexists(self.path):
            raise UsageError(f"{self.path}: already exists. Remove it or give --mlx-path another folder.")
        if not os.access(self._nearest(), os.W_OK | os.X_OK):
            raise UsageError(f"{self._nearest()}: may not be written to; give --mlx-path another folder.")
        if self.path.name.endswith(UNFINISHED):
            raise UsageError(f"{self.path}: {UNFINISHED} marks unfinished stores; give --mlx-path another name.")
        if self._reaches(source):
            raise UsageError(
                f"{self.path}: it, or {self.partial.name} beside it, is or lies inside the checkpoint; "
                "give --mlx-path a folder outside of it."
            )
        if self.partial.is_symlink() or (self.partial.exists() and not self.partial.is_dir()):
            raise UsageError(f"{self.partial}: is in the way; remove it or give --mlx-path another folder.")

    def _reaches(self, source: Path) -> bool:
        """True where writing would reach the checkpoint's folder, whichever name, link, case or mount leads there."""
        above = Path(os.path.realpath(self.path)).parents
        return any(_is_folder(path) and path.samefile(source) for path in (self.partial, *above))

    def _nearest(self) -> Path:
        """Returns the closest folder above DST that exists already."""
        return next(p for p in (self.partial, *self.partial.parents) if _is_folder(p))

    def check_space(self, nbytes: int, files: int) -> None:
        """Refuses when the file system has no room for `nbytes` more bytes in `files` more files."""
        try:
            free = self._fs.free_nbytes(self._nearest())
        except OSError as error:
            raise failed("asking for free space", self._nearest(), error) from error
        needed = nbytes + files * SLACK_PER_FILE + SLACK
        if free < needed:
            raise UsageError(
                f"{self.path}: needs {needed / 1e9:.3f} GB, {free / 1e9:.3f} GB are free there. "
                "Make room or give --mlx-path a folder on another disk."
            )

    def check_contents(self, names: Collection[str]) -> None:
        """Refuses a `.partial` folder that holds files which no conversion of this plan would write, or wrote."""
        known = {*names, MANIFEST, JOURNAL}
        present = self.files()
        for path in present:
            name = path.relative_to(self.partial).as_posix()
            if name.removesuffix(SUFFIX) not in known or path.is_symlink():
                raise UsageError(
                    f"{path}: not part of this conversion, so {self.partial.name} is not resumed and not touched. "
                    "Move it away or give --mlx-path another folder."
                )
        # The journal is the first file of a conversion, and outlived by the manifest alone. Files without either may
        # have the right names (somebody's checkpoint has them) and are still not ours to remove.
        if present and not {self.partial / MANIFEST, self.partial / JOURNAL} & set(present):
            raise UsageError(
                f"{self.partial}: holds files and no {JOURNAL} of an interrupted conversion, so it is not touched. "
                "Move it away or give --mlx-path another folder."
            )

    def files(self) -> list[Path]:
        """Returns every file, and every link, that the `.partial` folder holds already, but for what Finder adds."""
        found = []
        for folder, folders, names in os.walk(self.partial):
            inside = Path(folder)
            found += [inside / name for name in names if not of_finder(name)]
            found += [inside / name for name in folders if (inside / name).is_symlink()]
        return sorted(found)

    def take(self) -> None:
        """Makes the `.partial` folder and locks it against other converters; the lock ends with the process.

        Raises:
            UsageError: Another converter is at work on it, or finished it just now.
            ConvertError: The folder cannot be made.
        """
        try:
            self._take()
        except BaseException:
            self.release()
            raise

    def _take(self) -> None:
        try:
            self._fs.mkdir(self.partial)
            self._fd = os.open(self.partial, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
            locked = self._fs.lock(self._fd)
        except OSError as error:
            raise failed("making the folder", self.partial, error) from error
        if locked is None:
            self._say(
                f"{self.partial}: its file system cannot lock folders; let no other converter work there meanwhile"
            )
        elif not locked:
            raise UsageError(
                f"{self.partial}: another converter is at work on it. Wait for it or give another --mlx-path."
            )
        # It may have been finished and renamed before it was made here, or between making and locking.
        if os.path.lexists(self.path):
            with contextlib.suppress(OSError):  # of ours alone while it is empty
                self.partial.rmdir()
            raise UsageError(f"{self.path}: another converter finished it just now.")
        if not self.partial.is_dir() or not os.path.samestat(os.fstat(self._fd), self.partial.stat()):
            raise UsageError(f"{self.path}: another converter finished it just now.")

    def sync(self) -> None:
        """Puts the folder's last removals on the drive, so that a finished store never shows a journal."""
        try:
            self._fs.sync_folder(self.partial)
        except OSError as error:
            raise failed("syncing the folder", self.partial, error) from error

    def name_it(self) -> None:
        """Gives the whole store its name; from here on it is a model."""
        try:
            if os.path.lexists(self.path):
                raise UsageError(f"{self.path}: appeared during the conversion. The store is whole in {self.partial}.")
            self._fs.rename(self.partial, self.path)
        except OSError as error:
            raise failed("renaming the finished store", self.partial, error) from error
        # The store is whole under either name: should power fail before this is on the drive, the next run finds
        # DST.partial complete and renames it again. So a failure here is none of the conversion.
        with contextlib.suppress(OSError):
            self._fs.sync_folder(self.path.parent)

    def release(self) -> None:
        """Lets go of the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def of_finder(name: str) -> bool:
    """Returns whether macOS writes files of that name by itself: a folder's view, and what its disk cannot store."""
    return name in FINDER_FILES or name.startswith("._")


def _is_folder(path: Path) -> bool:
    """True for a folder; False for whatever else, a name too long for the system included."""
    try:
        return path.is_dir()
    except OSError:
        return False


def remove_leftovers(fs: Fs, destination: Destination, keep: Collection[str]) -> None:
    """Removes what an interrupted run left and a finished store does not hold: temporary files, the journal."""
    for path in destination.files():
        if path.relative_to(destination.partial).as_posix() not in keep:
            remove(fs, path)


def remove(fs: Fs, path: Path) -> None:
    """Removes a file of the unfinished store.

    Raises:
        ConvertError: It cannot be removed.
    """
    try:
        fs.unlink(path)
    except OSError as error:
        raise failed("removing", path, error) from error
