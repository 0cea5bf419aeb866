"""The wired limit: memory that macOS keeps in place for the GPU. One limit, held while a model is loaded.

mlx-lm sets the most that the system recommends around each answer and restores it after; with a model that leaves
little room, memory that goes in and out of being wired is what others saw panics under. So we wire what the plan holds
and a margin, and mlx-lm finds nothing to set.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.system.metal import working_set_bytes
from moe_mlx.system.sizes import parse_size

WIRED = ("auto", "max", "off")
#: Beside the plan: activations, and what MLX's allocator rounds up.
_MARGIN_SHARE, _MARGIN_FLOOR = 0.05, 256 * 10**6
_SETTER = "maybe_set_recommended_wired_limit"

#: mlx-lm's own setters, by module, while ours stands for them.
_setters: dict[str, Any] = {}


def check_wired(wired: str) -> str:
    """Returns what was asked for.

    Raises:
        UsageError: neither one of `WIRED` nor a size.
    """
    if wired not in WIRED:
        try:
            parse_size(wired)
        except (UsageError, TypeError):
            raise UsageError(f"wired is {wired!r}: give {', '.join(WIRED)}, or bytes such as 9GB") from None
    return wired


def wired_bytes(planned: int, wired: str, beside: int = 0) -> int | None:
    """Returns the limit to set, in bytes; None where there is no Metal.

    Args:
        planned: Bytes of the whole memory plan.
        wired: As `check_wired` takes it.
        beside: Bytes that MLX held before the model was loaded: another model, say a baseline.
    """
    most = working_set_bytes()
    if most is None:
        return None
    if wired == "off":
        return 0
    if wired == "max":
        return most
    asked = (
        beside + planned + max(_MARGIN_FLOOR, int(planned * _MARGIN_SHARE)) if wired == "auto" else parse_size(wired)
    )
    return min(most, asked)


def keep_mlx_lm_off() -> None:
    """Keeps mlx-lm from changing the limit around its answers."""
    for name in ("mlx_lm.utils", "mlx_lm.generate", "mlx_lm.server"):
        module = sys.modules.get(name) if name == "mlx_lm.server" else import_module(name)
        if module is not None and (setter := getattr(module, _SETTER, None)) is not _keep_it:
            _setters[name] = setter
            setattr(module, _SETTER, _keep_it)


def let_mlx_lm_set_it() -> None:
    """Lets mlx-lm set the limit again, as it does by itself."""
    while _setters:
        name, setter = _setters.popitem()
        setattr(sys.modules[name], _SETTER, setter)


def _keep_it() -> None:
    """Stands for mlx-lm's own setter: None tells it that there is no limit to restore."""
