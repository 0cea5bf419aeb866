"""Where the app keeps its history and sessions, and how it writes there: whole files or nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path


def data_folder() -> Path:
    """Returns the folder of sessions and history: `MOE_MLX_HOME`, or the platform's place for such data."""
    if home := os.environ.get("MOE_MLX_HOME"):
        return Path(home).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "moe-mlx"
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "moe-mlx"


def write_whole(path: Path, text: str) -> None:
    """Replaces a file by `text`, readable by its owner only; a crash leaves the old file.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
