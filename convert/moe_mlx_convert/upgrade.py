"""From a store to one of version 2 beside it, without the checkpoint: on request in its place.

The old one is of version 1, or of version 2 with its experts in other parts or row blocks.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moe_mlx.errors import StoreCorruptError, UsageError
from moe_mlx.store import StoreSource, digest, is_store
from moe_mlx.store.durable import Fs
from moe_mlx.store.files import expanded, openable
from moe_mlx.store.manifest import NAME as MANIFEST
from moe_mlx.store.parts import arranged
from moe_mlx.store.resolve import find_model
from moe_mlx.store.spec import ByteRange
from moe_mlx.store.store import read_manifest
from moe_mlx.store.store_checks import reason_of
from moe_mlx.system.talk import Talk
from moe_mlx_convert.arrangement import Arrangement
from moe_mlx_convert.conversion import Conversion
from moe_mlx_convert.copying import Copier
from moe_mlx_convert.destination import Destination
from moe_mlx_convert.joined import JoinedSources
from moe_mlx_convert.plan import Plan, expert_targets, verbatim
from moe_mlx_convert.replacing import Replacement
from moe_mlx_convert.reshard import warn
from moe_mlx_convert.summary import Summary, already
from moe_mlx_convert.workers import default_workers


@dataclass(frozen=True, slots=True)
class StoreOrigin:
    """A store to upgrade; attributes as of `checkpoint.Origin`."""

    name: str
    revision: str | None
    root: Path
    config: Mapping[str, Any]
    fingerprint: Mapping[str, str]

    def again(self) -> StoreOrigin:
        """Reads it anew, to find out whether it changed."""
        with closing(StoreSource.open(self.root, verify=False)) as source:
            return origin_of(source)


def upgrade(
    store: str | Path,
    mlx_path: str | Path | None = None,
    *,
    nested: bool = False,
    row_blocks: int = 1,
    replace: bool = False,
    workers: int | None = None,
    fs: Fs | None = None,
    say: Callable[[str], None] | None = None,
    talk: Talk | None = None,
) -> Summary:
    """Makes a store of version 2 from another store, which stays as it is unless `replace` is given.

    Every file of the old store is checked against its digest on the way, and every byte of the new one is compared with
    the old one before it gets its name.

    Args:
        store: Folder of a store whose experts lie otherwise, or a hub repository in the cache that holds one.
        mlx_path: Folder to make; by default `STORE-v2` beside the store. Run again, it resumes.
        nested: As in `convert`.
        row_blocks: As in `convert`.
        replace: When the new store is whole, give it the old one's name and remove the old one.
        workers: Copying threads.
        fs: File operations, for tests.
        say: Takes remarks; by default they are warnings.
        talk: Shows progress; by default a line on standard error, where that is a terminal.

    Raises:
        UsageError: Refused before the first write; nothing was left behind.
        StoreError: A damaged store, or a failure while writing, which leaves `mlx_path.partial` to be resumed.
    """
    fs, say, arrangement = fs or Fs(), say or warn, Arrangement(nested, row_blocks)
    arrangement.check()
    if not nested and row_blocks == 1:
        raise UsageError("an upgrade rearranges experts: say how, --nested or --row-blocks N or both.")
    root, given = _root(store, replace)
    if mlx_path is None and not given:
        raise UsageError(f"{store}: lies in the hub's cache; give --mlx-path a folder to make.")
    path = Path(os.path.abspath(expanded(mlx_path or beside(root))))  # noqa: PTH100  resolve() would follow a link there
    replacement = Replacement(fs, root, path, say) if replace else None
    if replacement is not None and replacement.resumed(arrangement):
        return already(read_manifest(root), root)
    with closing(StoreSource.open(root, verify=False)) as source:
        if source.bits:
            raise UsageError(
                f"{root}: its experts have bits of their own, so it is of version 3, which is not upgraded."
            )
        plan = _plan(source, arrangement)
        if plan.layouts == source.layouts:
            raise UsageError(f"{root}: already{arranged(source.layouts)}, as it was asked for.")
        origin, destination = origin_of(source), Destination(fs, path, root, say)
        copier = Copier(fs, destination.partial, JoinedSources(fs, source))
        conversion = Conversion(fs, origin, destination, plan, copier, workers or default_workers(), talk)
        summary = conversion.run(compare=True)
    if replacement is None:
        return summary
    replacement.finish()
    return dataclasses.replace(summary, destination=str(root))


def beside(store: str | Path) -> Path:
    """Returns where the upgrade of a store is made unless somebody says where: `STORE-v2`."""
    root = expanded(store).resolve()
    return root.with_name(f"{root.name}-v2")


def _root(store: str | Path, replace: bool) -> tuple[Path, bool]:
    """Returns the folder of the store to upgrade, and whether that was given, and not a repository of the hub."""
    given = openable(Path(expanded(store)))
    if replace and not given.exists():
        return given.absolute(), True
    root = find_model(str(store)).folder.resolve()
    own = given.is_dir() and root == given.resolve()
    if replace and not own:
        raise UsageError(f"{given}: lies in the hub's cache, where nothing is replaced; give --mlx-path instead.")
    if not is_store(root):
        raise UsageError(f"{root}: no store (no {MANIFEST}). `moe-mlx convert --model` takes checkpoints.")
    return root, own


def origin_of(source: StoreSource) -> StoreOrigin:
    """Looks at every file of a store, never through a link.

    Raises:
        StoreCorruptError: One is missing, a link, or no file.
    """
    manifest, root, prints = source.manifest, source.root, {}
    for stored in (*manifest.files, *manifest.resident):
        prints[stored.name] = _print((root / stored.name).lstat())
    for index, layer in enumerate(source.layers):
        for expert in range(layer.experts):
            path = source.byte_ranges(index, expert)[0].path
            try:
                with source.opened(index, expert) as fd:
                    prints[path.relative_to(root).as_posix()] = _print(os.fstat(fd))
            except OSError as error:
                raise StoreCorruptError(f"{path}: {reason_of(error)}. Convert the checkpoint anew.") from None
    prints[MANIFEST] = digest.of([(root / MANIFEST).read_bytes()])
    return StoreOrigin(manifest.source, manifest.revision, root, source.config, prints)


def _print(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns}"


def _plan(source: StoreSource, arrangement: Arrangement) -> Plan:
    manifest, root = source.manifest, source.root
    layouts = arrangement.layouts(source.layers, source.config, root)
    experts = tuple(
        expert_targets(layout, partial(_tensors, source, index), manifest.layers[index].digests)
        for index, layout in enumerate(layouts)
    )
    resident, files = (
        tuple(verbatim(root / stored.name, stored.digest) for stored in listed)
        for listed in (manifest.resident, manifest.files)
    )
    return Plan(layouts, experts, resident, files, manifest.resident_nbytes, {}, "upgrade")


def _tensors(source: StoreSource, index: int, expert: int) -> Sequence[ByteRange]:
    """Returns where an expert's tensors lie in its file, or, of one in parts, where they would lie joined."""
    (span,) = source.byte_ranges(index, expert)
    ranges, offset = [], 0 if source.layouts[index].rearranged else span.offset
    for spec in source.layers[index].tensors:
        ranges.append(ByteRange(span.path, offset, spec.nbytes))
        offset += spec.nbytes
    return ranges
