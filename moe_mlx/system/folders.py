"""Where a user's own small files go: calibration, history, the built primitive. Nothing here makes a folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_folder() -> Path:
    """Returns `moe-mlx` in the platform's cache folder; an absolute `$XDG_CACHE_HOME` is honoured everywhere.

    Raises:
        RuntimeError: there is no home folder.
    """
    chosen = os.environ.get("XDG_CACHE_HOME")
    if chosen and Path(chosen).is_absolute():
        return Path(chosen) / "moe-mlx"
    home = Path.home()
    return (home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache") / "moe-mlx"
