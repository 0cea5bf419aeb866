"""Where the app keeps its history and sessions."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def data_folder() -> Path:
    """Returns the folder of sessions and history: `MOE_MLX_HOME`, or the platform's place for such data."""
    if home := os.environ.get("MOE_MLX_HOME"):
        return Path(home).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "moe-mlx"
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "moe-mlx"
