"""Which nanobind an installed MLX was built with: types are shared only between builds of one ABI.

nanobind's internals change with its own releases, and MLX's patch releases have moved across three of them. A build
against another ABI would load and then know none of MLX's arrays.
"""

from __future__ import annotations

import re
from pathlib import Path

#: MLX's release to the nanobind it was built with and the number of that one's internals, as its wheels carry it.
#: `tests/cross` opens the wheels.
NANOBIND_OF: dict[str, tuple[str, int]] = {
    "0.32.0": ("2.14.0", 20),
    "0.32.1": ("2.14.0", 20),
    "0.32.2": ("2.15.0", 21),
    "0.32.3": ("3.0.1", 22),
    "0.32.4": ("3.1.0", 22),
}
_INTERNALS = re.compile(r"define\s+NB_INTERNALS_VERSION\s+(\d+)")
_HEADERS = ("src/nb_internals.h", "src/nb_abi.h")


def internals_of(nanobind: Path) -> int | None:
    """Returns the number of the internals that a nanobind's sources give; None where they give none.

    Args:
        nanobind: The folder of the package `nanobind`.
    """
    for name in _HEADERS:
        try:
            found = _INTERNALS.search((nanobind / name).read_text())
        except OSError:
            continue
        if found is not None:
            return int(found[1])
    return None


def why_not(mlx: str, nanobind: str, internals: int | None) -> str:
    """Returns why a nanobind cannot build for an MLX, in one line that names both versions; nothing where it can.

    Args:
        mlx: Version of the installed MLX.
        nanobind: Version of the installed nanobind.
        internals: What `internals_of` says of it.
    """
    wanted = NANOBIND_OF.get(mlx)
    if wanted is None:
        return f"mlx {mlx} is not known to this release, nor whether nanobind {nanobind} fits it: update moe-mlx"
    if internals != wanted[1]:
        install = f"pip install nanobind=={wanted[0]}"
        return f"mlx {mlx} was built with nanobind {wanted[0]}, {nanobind} is installed ({install})"
    return ""
