"""The primitive built here and tried on the demo model: the same tokens both ways, and why not where it cannot be."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from mlx_lm import stream_generate

import moe_mlx
from moe_mlx.errors import UsageError
from moe_mlx.loading.extension import came_along
from moe_mlx.native import build

_PROMPT = "Once upon a time"


def examine(folder: Path, *, small: bool) -> dict[str, Any]:
    """Returns whether decode runs in the graph, and whether it gives the tokens of decode by read-back."""
    tokens = 8 if small else 32
    said: list[str] = []
    started = time.perf_counter()
    try:
        ours = _tokens("native", tokens, said)
    except UsageError as error:
        return {"works": False, "reason": str(error), "same_tokens": None, "seconds": time.perf_counter() - started}
    seconds = time.perf_counter() - started
    built = any("building" in line for line in said)
    return {
        "works": True,
        "reason": "",
        "built_now": built,
        "came_built": came_along(sys.modules[build.MODULE]),
        "seconds": seconds,
        "same_tokens": ours == _tokens("readback", tokens, said),
    }


def _tokens(way: str, count: int, said: list[str]) -> list[int]:
    model, tokenizer = moe_mlx.load("demo", expert_cache="25%", decode=way, say=said.append)
    try:
        return [piece.token for piece in stream_generate(model, tokenizer, _PROMPT, max_tokens=count)]
    finally:
        moe_mlx.runtime_of(model).close()
