"""What is checked of a store's folder before anything of it is read: files, links, and the config that counts."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from moe_mlx.errors import StoreCorruptError, StoreMissingError
from moe_mlx.store import header
from moe_mlx.store import manifest as manifests
from moe_mlx.store.families import family_of
from moe_mlx.store.family import expert_count, top_k
from moe_mlx.store.files import open_regular
from moe_mlx.store.layout import Manifest


def reason_of(error: OSError) -> str:
    """Says why a store's file could not be opened or read; a link in its place comes back as ELOOP or ENOTDIR."""
    if error.errno == errno.ELOOP:
        return "a symbolic link, which a store may not hold"
    if error.errno == errno.ENOENT:
        return "the file is missing"
    return error.strerror or str(error)


def resident_nbytes(path: Path, file_nbytes: int) -> int:
    """Checks a resident shard's length and header, and returns the bytes of its tensors."""
    _check_file(path, file_nbytes)
    try:
        fd = open_regular(path, os.O_NOFOLLOW)
        try:
            return sum(entry.nbytes for entry in header.read(fd, path).entries.values())
        finally:
            os.close(fd)
    except OSError as error:
        raise StoreCorruptError(f"{path}: {reason_of(error)}; convert the model again.") from None


def _check_file(path: Path, nbytes: int) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise StoreMissingError(f"{path}: missing from the store; convert the model again.") from None
    if path.is_symlink():
        raise StoreCorruptError(f"{path}: a symbolic link, which a store may not hold; convert the model again.")
    if found.st_size != nbytes:
        raise StoreCorruptError(f"{path}: {found.st_size} bytes, the manifest says {nbytes}; convert the model again.")


def check_folder(root: Path, resident: Set[str]) -> None:
    """Refuses what mlx-lm or transformers would read though no store holds it: links, pipes, weights of others."""
    folders = [root]  # transformers looks into folders too: additional_chat_templates
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                path = Path(entry.path)
                if entry.is_symlink():
                    raise StoreCorruptError(f"{path}: a symbolic link, which a store may not hold; remove it.")
                if path.parent == root and path.match("model*.safetensors") and entry.name not in resident:
                    raise StoreCorruptError(f"{path}: weights that are not in {manifests.NAME}; remove them.")
                if entry.is_dir():
                    if path != root / "experts":  # each of whose files is checked when it is read
                        folders.append(path)
                elif not entry.is_file():
                    raise StoreCorruptError(f"{path}: not a regular file; remove it.")


def check_config(root: Path, manifest: Manifest, config: Mapping[str, Any]) -> None:
    """Checks that config.json, which mlx-lm builds the model from, counts the experts that the store holds."""
    path = root / "config.json"
    family = family_of(config, root)
    declared = expert_count(config, family, root)
    for stored in manifest.layers:
        layer = stored.layer
        if declared != layer.experts:
            raise StoreCorruptError(
                f"{path}: declares {declared} experts, the store holds {layer.experts} ({layer.path}). Convert again."
            )
        if (chosen := top_k(config, family, layer.layer, root)) > layer.top_k:
            raise StoreCorruptError(
                f"{path}: chooses {chosen} experts a token, the store was made for {layer.top_k}. Convert again."
            )
