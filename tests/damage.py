"""What can happen to a store's files, and how it is put right again."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def flip(path: Path) -> None:
    """Turns one bit of the file's last bytes."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


FAULTS: dict[str, Callable[[Path], Any]] = {
    "flipped": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 7),
    "emptied": lambda path: os.truncate(path, 0),
    "unlinked": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (path.rename(path.with_suffix(".moved")), path.symlink_to(path.with_suffix(".moved"))),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


def experts(store: Path) -> list[Path]:
    """Returns the files of a store's experts."""
    return sorted((store / "experts").rglob("*.safetensors"))


def damage_thirds(store: Path, fault: str, runtime: Any) -> None:
    """Damages every third expert, whose open descriptors `runtime` lets go of: they would outlive the file's name."""
    runtime.source._files.shrink()
    if runtime.layers.native is not None:
        runtime.layers.native.reader.close()
    for path in experts(store)[::3]:
        FAULTS[fault](path)


def repair(store: Path, pristine: Path) -> None:
    """Puts every expert of `pristine` where it belongs, whatever is there now."""
    for path in experts(pristine):
        damaged = store / path.relative_to(pristine)
        if damaged.is_dir() and not damaged.is_symlink():
            shutil.rmtree(damaged)
        elif damaged.is_symlink() or not damaged.is_file():
            damaged.unlink(missing_ok=True)
        shutil.copyfile(path, damaged)
