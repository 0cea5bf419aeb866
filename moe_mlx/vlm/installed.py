"""Whether mlx-vlm is installed, and whether it is the one that this was read off and tested with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from moe_mlx.errors import UnsupportedModelError

#: Its model files are read, and their bits compared, at this version; another one may name or compute things otherwise.
VERSION = "0.7.10"
INSTALL = 'pip install "moe-mlx[vlm]"'


def installed() -> str | None:
    """Returns the version of mlx-vlm that is installed, None where there is none."""
    if find_spec("mlx_vlm") is None:
        return None
    try:
        return version("mlx-vlm")
    except PackageNotFoundError:
        return "of no known version"


def missing() -> str:
    """Returns why mlx-vlm cannot be used and what to do about it; "" where it can."""
    found = installed()
    if found is None:
        return f"mlx-vlm is not installed: {INSTALL}"
    if found != VERSION:
        return f"mlx-vlm is {found}, and {VERSION} is what this was made and tested for: {INSTALL}"
    return ""


def require(what: str) -> None:
    """Refuses to go on without mlx-vlm.

    Args:
        what: What needs it, as a sentence's beginning: "folder: model type 'x'".

    Raises:
        UnsupportedModelError: it is not there, or another version.
    """
    if reason := missing():
        raise UnsupportedModelError(f"{what} needs mlx-vlm: {reason}.")
