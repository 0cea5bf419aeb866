"""Decode with what this process's environment says of MLX's command buffers; `decode_rates` measured MLX's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from moe_mlx.benchmark.settings import BenchSetting
from moe_mlx.examination.decode_rates import rates
from moe_mlx.examination.random_model import checkpoint_and_store

VARIABLE = "MLX_MAX_OPS_PER_BUFFER"


def examine(folder: Path, *, small: bool) -> dict[str, Any]:
    """Returns tokens a second under that setting."""
    tokens, trials = (6, 1) if small else (24, 5)
    checkpoint, store = checkpoint_and_store(folder, small=small)
    way = {"auto": BenchSetting("25%", "exact", None, "auto", "cached", "warm")}
    return {"value": int(os.environ[VARIABLE]), **rates(checkpoint, store, way, tokens, trials)}
