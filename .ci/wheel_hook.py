"""Puts extensions into a wheel where the environment names a folder of them (`make wheel-mac`); others have none."""

from __future__ import annotations

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Binaries(BuildHookInterface[Any]):
    """Takes `$MOE_MLX_BINARIES`, the folder, and `$MOE_MLX_WHEEL_TAG`, what the wheel is for."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the folder to what goes in."""
        folder = os.environ.get("MOE_MLX_BINARIES")
        if folder and version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = os.environ["MOE_MLX_WHEEL_TAG"]
            build_data["force_include"][folder] = "moe_mlx/native/binaries"
