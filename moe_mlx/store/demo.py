"""Where the embedded demo model is: inside an installed wheel, or in `assets/` of a checkout."""

from __future__ import annotations

from pathlib import Path

from moe_mlx.errors import StoreMissingError

#: The demo runs at half its experts unless told otherwise, so that there is something to see.
DEMO_EXPERT_CACHE = "50%"
DEMO = "demo"


def demo_path() -> Path:
    """Returns the folder of the demo checkpoint.

    Raises:
        StoreMissingError: this installation carries no demo model.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "demo_model", package.parent / "assets" / "demo"):
        if (folder / "config.json").is_file():
            return folder
    raise StoreMissingError("the embedded demo model is missing from this installation: name a model with --model")
