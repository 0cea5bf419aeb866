"""Whether a picture can be drawn, found out before minutes of measuring."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from moe_mlx.errors import UsageError


def check_plot(path: Path, kinds: Sequence[str] = (".svg", ".png")) -> None:
    """Checks that `--plot` names a file that matplotlib, which has to be here, can write.

    Raises:
        UsageError: its suffix is none of `kinds`, its folder is missing, or matplotlib is.
    """
    if path.suffix.lower() not in kinds:
        raise UsageError(f"--plot {path}: give a file that ends in {', '.join(kinds[:-1])} or {kinds[-1]}")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.parent}")
    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib, the extra `plot`: pip install 'moe-mlx[plot]'")
