"""How far our logits are from mlx-lm's: nothing on the CPU, and the largest difference on a GPU, by gather's path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

import moe_mlx
from moe_mlx.store.demo import demo_path

#: Rows of one call, and the path that they take through mlx-lm's switch: it sorts from 64 (row, choice) pairs on.
_CALLS = {"decode, one row": [1] * 6, "prompt, few rows": [8], "prompt, sorted rows": [96]}


def examine(folder: Path, *, small: bool) -> dict[str, Any]:
    """Returns, for each device and path, the largest difference as a share of the largest logit."""
    devices = {"cpu": mx.cpu, **({"gpu": mx.gpu} if mx.metal.is_available() else {})}
    found: dict[str, Any] = {}
    for name, device in devices.items():
        mx.set_default_device(device)
        theirs = _logits(mlx_lm.load(str(demo_path()))[0])
        model, _ = moe_mlx.load("demo", expert_cache="50%", routing="exact", say=lambda line: None)
        ours = _logits(model)
        found[name] = {
            call: {
                "equal": bool(np.array_equal(ours[call], theirs[call])),
                "largest": float(np.abs(ours[call] - theirs[call]).max() / np.abs(theirs[call]).max()),
            }
            for call in _CALLS
        }
        moe_mlx.runtime_of(model).close()
    return found


def _logits(model: Any) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    out = {}
    for call, lengths in _CALLS.items():
        prompt_cache, rows = make_prompt_cache(model), []
        for number, length in enumerate(lengths):
            tokens = mx.arange(number, number + length)[None] % 100 + 5
            rows.append(model(tokens, cache=prompt_cache).astype(mx.float32))
        mx.eval(rows)
        out[call] = np.concatenate([np.array(row).reshape(-1) for row in rows])
    return out
