"""moe-mlx: mixture-of-experts models larger than memory, on MLX.

`load` gives `(model, tokenizer)` that every mlx-lm function accepts; `stats` and `reset` look at and empty the
expert cache behind such a model. Names resolve on first use, so importing the package costs no MLX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moe_mlx.version import __version__

if TYPE_CHECKING:
    from moe_mlx.conversation.keeper import hold
    from moe_mlx.loading.attachment import reset, runtime_of, stats
    from moe_mlx.loading.loader import load

_HOME = {
    "hold": "moe_mlx.conversation.keeper",
    "load": "moe_mlx.loading.loader",
    "reset": "moe_mlx.loading.attachment",
    "runtime_of": "moe_mlx.loading.attachment",
    "stats": "moe_mlx.loading.attachment",
}

__all__ = ["__version__", "hold", "load", "reset", "runtime_of", "stats"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'moe_mlx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
