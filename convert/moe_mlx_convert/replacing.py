"""A store that takes the name of the one it was made from. Killed at any moment, one of the two is whole on the disk.

Three steps: the old store steps aside (`STORE.replaced`), the new one takes its name, the old one's files go. Before
they do, its manifest gets another name, by which what is left is known as no store, and as ours to remove. The same
command goes on from wherever an earlier run of it ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from moe_mlx.errors import StoreCorruptError, UsageError
from moe_mlx.store import StoreSource, is_store
from moe_mlx.store.durable import Fs
from moe_mlx.store.layout import Manifest, expert_file
from moe_mlx.store.manifest import NAME as MANIFEST
from moe_mlx.store.manifest import parse
from moe_mlx.store.store import read_manifest
from moe_mlx_convert.arrangement import Arrangement
from moe_mlx_convert.destination import of_finder
from moe_mlx_convert.errors import failed

#: What the old store's name ends with while it is removed.
ASIDE = ".replaced"
#: What its manifest is called meanwhile.
FORMER = ".store.json.replaced"


class Replacement:
    """The old store's place.

    Args:
        fs: File operations.
        old: The store that is replaced.
        new: The one made from it.
        say: Takes remarks.

    Raises:
        UsageError: The two lie on different disks.
    """

    def __init__(self, fs: Fs, old: Path, new: Path, say: Callable[[str], None]) -> None:
        self._fs, self._say = fs, say
        self.old, self.new = old, new
        self.aside = old.with_name(old.name + ASIDE)
        there = next(path for path in new.parents if path.is_dir())
        if old.parent.is_dir() and there.stat().st_dev != old.parent.stat().st_dev:
            raise UsageError(
                f"{new}: lies on another disk than {old}, whose place it cannot take; leave --mlx-path out."
            )

    def resumed(self, arrangement: Arrangement) -> bool:
        """Ends what an earlier run began; returns whether there was something, and so nothing is left to convert.

        Raises:
            UsageError: What lies there is not of an earlier run.
        """
        aside, old, new = (is_store(path) for path in (self.aside, self.old, self.new))
        if os.path.lexists(self.aside) and not self.old.exists() and not (aside and new):
            raise UsageError(f"{self.old}: is gone, and {self.new} is no store to put there; see {self.aside}.")
        if not self.old.exists():
            if not aside:
                return False
            self._check(self.aside, arrangement)
        elif old and os.path.lexists(self.aside):
            after = read_manifest(self.old)
            if not _is_as_asked(after, self.old, arrangement):
                raise UsageError(f"{self.aside}: is in the way; remove it, or move it elsewhere.")
            if _digests(self._former()) != _digests(after):
                return False  # whatever that is, this store did not come in its place
        elif old and new:
            self._check(self.old, arrangement)
        else:
            return False
        self.finish()
        return True

    def _check(self, old: Path, arrangement: Arrangement) -> None:
        """Refuses to replace a store by anything but what an upgrade of it would be."""
        before, after = read_manifest(old), read_manifest(self.new)
        if _digests(before) != _digests(after) or not _is_as_asked(after, old, arrangement):
            raise UsageError(f"{self.new}: already exists, and is not what this command would make. Move it elsewhere.")

    def _former(self) -> Manifest | None:
        """Returns the manifest of the store that stepped aside; None where there is none, and so nothing of ours."""
        if is_store(self.aside):
            return read_manifest(self.aside)
        try:
            return parse((self.aside / FORMER).read_bytes(), self.aside / FORMER)
        except (OSError, StoreCorruptError):
            return None

    def finish(self) -> None:
        """Goes on from where the stores are: steps aside, takes the name, removes.

        Raises:
            ConvertError: A step failed; the same command goes on from there.
        """
        try:
            if is_store(self.new) and is_store(self.old):
                self._fs.rename(self.old, self.aside)
                self._fs.sync_folder(self.aside.parent)
            if not self.old.exists():
                self._fs.rename(self.new, self.old)
                self._fs.sync_folder(self.old.parent)
                if self.new.parent != self.old.parent:
                    self._fs.sync_folder(self.new.parent)
        except OSError as error:
            if not os.path.lexists(self.old):  # whoever looks for the model finds the old one again
                with contextlib.suppress(OSError):
                    self._fs.rename(self.aside, self.old)
            raise failed(f"putting it in the place of {self.old}", self.new, error) from error
        try:
            self._remove()
        except OSError as error:
            raise failed("removing the old store", self.aside, error) from error

    def _remove(self) -> None:
        """Removes what a store holds and no more; strangers stay, and are told."""
        former = self._former()
        if former is None:
            return
        if is_store(self.aside):
            self._fs.rename(self.aside / MANIFEST, self.aside / FORMER)
            self._fs.sync_folder(self.aside)
        for name in _names(former):
            with contextlib.suppress(FileNotFoundError):
                self._fs.unlink(self.aside / name)
        for folder, _, names in os.walk(self.aside, topdown=False):
            for name in filter(of_finder, names):
                self._fs.unlink(Path(folder, name))
            if Path(folder) == self.aside:
                self._fs.unlink(self.aside / FORMER)
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if self.aside.exists():
            self._say(f"{self.aside}: holds files that were none of the store's, so it is kept")


def _is_as_asked(manifest: Manifest, store: Path, arrangement: Arrangement) -> bool:
    """Returns whether experts lie as an upgrade of a store would lay them."""
    with StoreSource.open(store, verify=False) as source:
        wanted = arrangement.layouts(source.layers, source.config, store)
    return wanted == tuple(stored.layout for stored in manifest.layers)


def _digests(manifest: Manifest | None) -> list[tuple[str, ...]] | None:
    """Returns what tells whether two stores hold the same experts."""
    return None if manifest is None else [stored.digests for stored in manifest.layers]


def _names(manifest: Manifest) -> Iterator[str]:
    """Yields the names of a store's files, which both versions share."""
    yield from (stored.name for stored in (*manifest.files, *manifest.resident))
    for stored in manifest.layers:
        yield from (f"{stored.directory}/{expert_file(expert)}" for expert in range(stored.layer.experts))
